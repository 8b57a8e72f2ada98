"""`rtd-plugin doctor`."""

from pathlib import Path
from typing import Any

import click

from rtd_plugin.cli.console import out, print_json
from rtd_plugin.cli.options import FILE, JSON

VERDICTS = {
    "exact": "correct here: equals an exact causal encoding up to {difference:.0e}",
    "wrong": "WRONG here, without an error message: differs from an exact causal encoding by {difference:.0%}",
    "failed": "fails here: {message}",
    "misread": "correct here, but the adapter reads some batches differently: {message}",
    "unchecked": "not checked: {message}",
}


@click.command()
@click.argument("host", type=FILE)
@click.option("--adapter", help="The host's method, if several methods match its code.")
@JSON
def command(host: Path, adapter: str | None, as_json: bool) -> None:
    """Check HOST, a checkout of a method's code, in this Python environment; no weights are needed.

    The host's function composes a few queries with a tiny model, which are compared with an exact encoding. The exit
    code is 1 if results would be wrong, or if it fails.

    \b
    Example:
      rtd-plugin doctor path/to/lincir
    """
    from rtd_plugin.workflows.patch import diagnose

    report = diagnose(host, adapter)
    if as_json:
        print_json(report)
    else:
        out().print("\n".join(_format_lines(report)), soft_wrap=True)
    click.get_current_context().exit(0 if report["right"] else 1)


def _format_lines(report: dict[str, Any]) -> list[str]:
    commit = f", commit {report['commit'][:12]}" if report["commit"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [f"Host     {report['host']} ({report['adapter']}{commit})", f"Python   {report['python']} ({versions})"]
    for point in report["points"]:
        lines += [f"Point    {point['file']}:{point['line']}  {point['name']}", f"         {_describe_outcome(point)}"]
    for fault in report["known_faults"]:
        lines.append(f"Known    with {fault['package']} {fault['version']}, {fault['effect']}")
    for name, files in report["missing_packages"].items():
        lines.append(f"Missing  {name}, imported by {', '.join(files[:3])}{', …' if len(files) > 3 else ''}")
    for shim in report["shims"]:
        lines.append(f"Shim     {shim['name']}: {shim['fault']} (a patch repairs it)")
    advice = [f"with {fault['package']} {fault['version']}: {fault['remedy']}" for fault in report["known_faults"]]
    if missing := ", ".join(report["missing_packages"]):
        advice.append(f"install the missing packages that your programs import: {missing}")
    return [*lines, "", *(f"Do: {line}" for line in advice), _conclude(report)]


def _conclude(report: dict[str, Any]) -> str:
    """Return the last line: whether the host composes correctly here, or else whether a patch does."""
    faulty = [point for point in report["points"] if point["outcome"] in ("wrong", "failed", "misread")]
    if report["right"]:
        checked = any(point["outcome"] == "exact" for point in report["points"])
        return "The host composes correctly here." if checked else "No fault of the host is known here."
    if any(point["outcome"] == "misread" for point in faulty):
        return "A patch would not compose as the host does: the adapter has to be fixed."
    if all(point["patchable"] for point in faulty):
        return (
            "Do: patch the host (`rtd-plugin patch`): composed queries then bypass the faulty function, "
            "and are correct here"
        )
    failure = next(point["message"] for point in faulty if not point["patchable"])
    return f"A patch would not compose here either, until this is fixed: {failure}"


def _describe_outcome(point: dict[str, Any]) -> str:
    if point["outcome"] == "wrong" and point["difference"] is None:
        return f"WRONG here, without an error message: {point['message']}"
    return VERDICTS[point["outcome"]].format_map(point)

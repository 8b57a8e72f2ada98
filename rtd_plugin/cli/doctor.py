"""`rtd-plugin doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rtd_plugin.cli.console import out, print_json
from rtd_plugin.cli.options import FILE, JSON

if TYPE_CHECKING:
    from rtd_plugin.patching.doctor import Diagnosis, PointReport

VERDICTS = {
    "exact": "composes right here: as an exact causal encoding does, up to {difference:.0e}",
    "wrong": "WRONG here, without an error: differs from an exact causal encoding by {difference:.0%}",
    "failed": "fails here: {message}",
    "unchecked": "not checked: {message}",
}


@click.command()
@click.argument("host", type=FILE)
@click.option("--adapter", help="The host's method, if its code could be that of several.")
@JSON
def command(host: Path, adapter: str | None, as_json: bool) -> None:
    """Examine HOST, a checkout of a method's code, in this Python's environment, without weights.

    The host's own function composes a few queries with a tiny model, and is compared with an exact encoding. Exit code
    1 if its results would be wrong, or if it fails.

    \b
    Example:
      rtd-plugin doctor path/to/lincir
    """
    from rtd_plugin.workflows.patch import diagnose

    diagnosis = diagnose(host, adapter)
    if as_json:
        print_json(diagnosis.to_dict())
    else:
        out().print("\n".join(_format_lines(diagnosis)), soft_wrap=True)
    click.get_current_context().exit(0 if diagnosis.right else 1)


def _format_lines(diagnosis: Diagnosis) -> list[str]:
    values = diagnosis.to_dict()
    commit = f", commit {values['commit'][:12]}" if values["commit"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in diagnosis.versions.items())
    lines = [f"Host     {values['host']} ({values['adapter']}{commit})", f"Python   {values['python']} ({versions})"]
    for point in diagnosis.points:
        lines += [f"Point    {point.file}:{point.line}  {point.name}", f"         {_verdict(point)}"]
    for fault in diagnosis.known_faults:
        lines.append(f"Known    with {fault.package} {fault.version}, {fault.effect}")
    for name, files in diagnosis.missing.items():
        lines.append(f"Missing  {name}, imported by {', '.join(files[:3])}{', …' if len(files) > 3 else ''}")
    for shim in diagnosis.host.shims:
        lines.append(f"Shim     {shim.name}: {shim.fault} (a patch repairs it, if met)")
    advice = [f"with {fault.package} {fault.version}: {fault.remedy}" for fault in diagnosis.known_faults]
    if diagnosis.missing:
        advice.append(
            f"install what is missing, as far as the programs you use import it: {', '.join(diagnosis.missing)}"
        )
    outcomes = {point.outcome for point in diagnosis.points}
    if outcomes & {"wrong", "failed"}:
        advice.append(
            "patch the host (`rtd-plugin patch`): composed queries then do not call the function that is at fault here"
            + ("; errors during the import of the host have to be fixed first" if "failed" in outcomes else "")
        )
    return [*lines, *([""] if advice else []), *(f"Do: {line}" for line in advice)]


def _verdict(point: PointReport) -> str:
    if point.outcome == "wrong" and point.difference is None:
        return f"WRONG here, without an error: {point.message}"
    return VERDICTS[point.outcome].format(difference=point.difference, message=point.message)

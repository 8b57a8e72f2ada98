"""`rtd-plugin patch`."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rtd_plugin.cli.console import out, print_json
from rtd_plugin.cli.options import FILE, JSON
from rtd_plugin.cli.shell import quote

if TYPE_CHECKING:
    from rtd_plugin.patching.detection import Host
    from rtd_plugin.patching.manifest import Manifest


@click.command()
@click.argument("host", type=FILE)
@click.option(
    "--weights",
    type=FILE,
    metavar="RUN|FILE",
    help="A run, its text encoder, or one in OpenAI's, Hugging Face's or the authors' layout. Default: the newest run "
    "in ./runs.",
)
@click.option("--adapter", help="The host's method, if several methods match its code.")
@click.option("--output", type=FILE, help="The patch folder. Default: HOST-rtd-patch beside HOST.")
@click.option(
    "--blend",
    type=float,
    default=1.0,
    metavar="A",
    show_default=True,
    help="Interpolate between the pre-trained text encoder (0) and the tuned one (1).",
)
@click.option("--force", is_flag=True, help="Do not check that the host's CLIP is the one that was tuned.")
@click.option("--no-shim", "without_shims", multiple=True, metavar="NAME", help="Do not repair this fault of the host.")
@click.option("--remove", is_flag=True, help="Remove the patch folder. HOST may be that folder.")
@JSON
def command(
    host: Path,
    weights: Path | None,
    adapter: str | None,
    output: Path | None,
    blend: float,
    force: bool,
    without_shims: tuple[str, ...],
    remove: bool,
    as_json: bool,
) -> None:
    """Encode HOST's composed queries with a tuned text encoder, without editing HOST, a checkout of a method's code.

    Writes a patch folder, which `rtd-plugin run` and its activation scripts activate.
    HOST is read, never imported, run or written to.

    \b
    Examples:
      rtd-plugin patch path/to/searle
      rtd-plugin patch path/to/searle --weights runs/searle-vit-l-14 --output patches/searle
      rtd-plugin patch path/to/searle --remove
    """
    from rtd_plugin.workflows import patch

    if remove:
        folder = patch.remove(host, output)
        if as_json:
            print_json({"removed": str(folder)})
        else:
            out().print(f"Removed {folder}.", soft_wrap=True)
        return

    manifest, patched = patch.patch(
        host,
        weights=weights,
        adapter=adapter,
        output=output,
        blend=blend,
        force=force,
        without_shims=without_shims,
    )
    if as_json:
        print_json({"patch": str(manifest.folder), "next": _list_next_steps(manifest, patched), **manifest.to_dict()})
    else:
        _show(manifest, patched)


def _list_next_steps(manifest: Manifest, host: Host) -> list[str]:
    # Environment variables come first: after `run` they would replace what it sets.
    words = host.adapter.evaluation.split()
    variables = list(takewhile(lambda word: "=" in word, words))
    run = [*variables, "rtd-plugin", "run", quote(str(manifest.folder)), "--", *words[len(variables) :]]
    return [f"cd {quote(manifest.host)}", " ".join(run)]


def _show(manifest: Manifest, host: Host) -> None:
    weights = manifest.weights
    commit = f", commit {manifest.commit[:12]}" if manifest.commit else ""
    lines = [f"Host     {manifest.host} ({manifest.adapter}{commit})"]
    for located in host.points:
        point = located.point
        lines.append(f"Point    {point.file}:{located.line}  {point.name}{point.signature}")
    step = f", step {weights.step}" if weights.step is not None else ""
    lines.append(f"Weights  {weights.path}{step}")
    if weights.base is None:
        lines.append("         no base recorded: cannot check that the host's CLIP is the one it was tuned from")
    else:
        checked = "not checked (--force)" if manifest.force else "checked at the first composed query"
        lines.append(f"         tuned from {weights.base} for {weights.adapter}; the host's CLIP is {checked}")
    if weights.adapter not in (None, manifest.adapter):
        lines.append(f"         note: tuned for {weights.adapter}, whose prompt may differ from {manifest.adapter}'s")
    changes = "use the tuned text encoder" if manifest.blend == 1 else f"use a blend, {manifest.blend:g} of it tuned"
    lines += [
        f"Changes  Composed queries {changes}. Plain texts, images, the projection and training code",
        "         keep the weights that the host loads; no file of the host is changed.",
    ]
    if manifest.not_copied is None:
        lines.append("Needs    Python 3.8 and torch 1.11 or newer; rtd-plugin need not be installed there")
    else:
        needed = " and ".join(manifest.packages)
        lines.append(f"Needs    {needed} installed for the host's Python, because {manifest.not_copied}")
    switched_on = {shim.name for shim in manifest.shims}
    for shim in host.shims:
        state = "repaired" if shim.name in switched_on else "not repaired"
        lines.append(f"Shim     {shim.name}: {shim.fault} ({state})")
    lines += [
        f"Wrote    {manifest.folder}",
        "",
        "Next:",
        *(f"  {line}" for line in _list_next_steps(manifest, host)),
        "or, for all Python started from a shell,",
        f"  source {quote(str(manifest.folder / 'activate'))}",
    ]
    out().print("\n".join(lines), soft_wrap=True)

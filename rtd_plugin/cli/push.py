"""`rtd-plugin push`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from rtd_plugin.cli.console import announce_loading, print_lines, show
from rtd_plugin.cli.options import FILE, JSON


@click.command()
@click.argument("run", type=FILE)
@click.argument("repository", metavar="USER/NAME")
@click.option("--private", is_flag=True, help="Make a repository that only you see.")
@click.option("--revision", help="The branch to commit to. Default: main.")
@click.option("--with-projection", is_flag=True, help="Upload the projection as well, if its license allows it.")
@JSON
def command(as_json: bool, run: Path, repository: str, **options: Any) -> None:
    """Upload the finished RUN to the Hugging Face Hub: text encoder, recipe, metrics, and model card.

    The token is that of `hf auth login`, or HF_TOKEN. Everywhere a run is named, hf://USER/NAME[@REVISION] then names
    this one.

    \b
    Examples:
      rtd-plugin push runs/mine me/lincir-vit-l-14-rtd --private
      rtd-plugin search shoe.jpg "is red" --images catalogue --weights hf://me/lincir-vit-l-14-rtd --projection phi.pt
    """
    announce_loading()
    from rtd_plugin.workflows.push import push  # imports torch, which `--help` does not need

    show(push(run, repository, **options), as_json, _show)


def _show(result: Mapping[str, Any]) -> None:
    print_lines(f"Wrote {', '.join(result['files'])} to {result['url']} ({result['revision']}, {result['commit']}).")
    if result["license"] is None:
        print_lines("The model card states no license: fill it in at the top of README.md, and push again.")
    print_lines(
        "", "Next:", f"  rtd-plugin evaluate --benchmark cirr --data path/to/CIRR --weights {result['weights']}"
    )

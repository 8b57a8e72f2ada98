"""`rtd-plugin search`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from rtd_plugin.cli.console import announce_loading, out, progress, show
from rtd_plugin.cli.options import FILE, JSON, SKIP_UNREADABLE, model_options


@click.command()
@click.argument("image", type=FILE)
@click.argument("condition")
@click.option("--images", type=FILE, help="The folder to search, with its subfolders.")
@click.option("--index", help="An index built by `rtd-plugin index`, instead of --images.")
@click.option("--where", help='An SQL condition on the columns of the index, such as "price < 50".')
@click.option("--image-root", "image_roots", type=FILE, multiple=True, help="A folder that links in --images point to.")
@SKIP_UNREADABLE
@model_options
@click.option("--top", type=click.IntRange(1, 50), default=10, show_default=True, help="How many images to show.")
@click.option("--page", type=FILE, help="Write a page with images to this file.")
@JSON
def command(as_json: bool, image: Path, condition: str, **options: Any) -> None:
    """Find the images of a folder or index that look like IMAGE, changed as CONDITION says.

    \b
    Examples:
      rtd-plugin search shoe.jpg "is red and has no laces" --images catalogue --weights runs/mine --page found.html
      rtd-plugin search shoe.jpg "is red" --index catalogue.lance --where "price < 50" --weights runs/mine
    """
    announce_loading()
    from rtd_plugin.workflows.search import search  # imports torch, which `--help` does not need

    show(search(image, condition, progress=progress, **options), as_json, _show_table)


def _show_table(results: Mapping[str, Any]) -> None:
    rows = results["results"]
    table = Table("rank", *(row["label"] for row in rows))
    for rank, images in enumerate(zip(*(row["images"] for row in rows), strict=True), start=1):
        table.add_row(str(rank), *(f"{image['image']} ({image['score']:.3f})" for image in images))
    out().print(table)
    if results["page"]:
        out().print(f"Wrote {results['page']}.", soft_wrap=True)

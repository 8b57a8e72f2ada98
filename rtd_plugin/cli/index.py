"""`rtd-plugin index`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from rtd_plugin.cli.console import announce_loading, print_lines, progress, show
from rtd_plugin.cli.options import FILE, JSON, RAY, SKIP_UNREADABLE, model_options


@click.command()
@click.argument("images", type=FILE)
@click.option("--output", required=True, help="The index: a folder or URI ending in .lance, or a plugin's format.")
@click.option("--columns", type=FILE, help="CSV or Parquet with a column `image` and columns to filter by.")
@click.option(
    "--approximate/--exact",
    default=None,
    help="Whether a search may miss images, to be faster. Default: above a million images.",
)
@click.option("--image-root", "image_roots", type=FILE, multiple=True, help="A folder that links in IMAGES point to.")
@SKIP_UNREADABLE
@model_options
@RAY
@JSON
def command(as_json: bool, images: Path, output: str, **options: Any) -> None:
    """Build or update an index of the folder IMAGES, to search it faster.

    \b
    Examples:
      rtd-plugin index catalogue --weights runs/mine --output catalogue.lance
      rtd-plugin index catalogue --weights runs/mine --output catalogue.lance --columns prices.csv
      rtd-plugin search shoe.jpg "is red" --index catalogue.lance --where "price < 50" --weights runs/mine
    """
    announce_loading()
    from rtd_plugin.workflows.index import build_index  # imports torch, which `--help` does not need

    show(build_index(images, output, progress=progress, **options), as_json, _show)


def _show(result: Mapping[str, Any]) -> None:
    change = f"{result['added']} added, {result['removed']} removed"
    print_lines(f"Wrote {result['index']}: {result['images']} images, {change}.")
    if result["recall_at_10"] is not None:
        print_lines(f"The search is approximate: it finds {result['recall_at_10']} % of the ten best images.")

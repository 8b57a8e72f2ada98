"""Recipes: the published setting for each backbone of `backbones.json`, and in `miniature` those of the miniature."""

from collections.abc import Iterable
from pathlib import Path

from rtd_plugin import hookimpl


@hookimpl
def rtd_recipe_folders() -> Iterable[Path]:
    folder = Path(__file__).parent
    return [folder, folder / "miniature"]

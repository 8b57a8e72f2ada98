"""Recipes: complete training runs, each a YAML file of this folder."""

from collections.abc import Iterable
from pathlib import Path

from rtd_plugin import hookimpl


@hookimpl
def rtd_recipe_folders() -> Iterable[Path]:
    return [Path(__file__).parent]

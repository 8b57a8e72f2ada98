"""`rtd-plugin recipes`."""

from collections.abc import Mapping
from typing import Any

import click
from rich.table import Table

from rtd_plugin.cli.console import out, print_text, show
from rtd_plugin.cli.options import JSON


@click.command()
@click.argument("name", required=False)
@JSON
def command(name: str | None, as_json: bool) -> None:
    """List the recipes that are installed, or show the one of that NAME.

    \b
    Example:
      rtd-plugin recipes lincir-miniature
    """
    from rtd_plugin.workflows.catalogue import load_recipe, load_recipes

    if name is not None:
        text, values = load_recipe(name)
        show({"name": name, "recipe": values}, as_json, lambda result: print_text(text))
        return
    recipes = load_recipes()
    show({"recipes": list(recipes)}, as_json, lambda result: _show(recipes))


def _show(recipes: Mapping[str, Mapping[str, Any]]) -> None:
    table = Table("recipe", "adapter", "backbone", "steps")
    for name, values in recipes.items():
        model = values["backbone"].get("model") if isinstance(values.get("backbone"), Mapping) else None
        cells = (values.get("adapter"), model, values.get("steps"))
        table.add_row(name, *("" if cell is None else str(cell) for cell in cells))
    out().print(table)

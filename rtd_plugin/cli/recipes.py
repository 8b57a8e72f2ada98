"""`rtd-plugin recipes`."""

from pathlib import Path
from typing import Any

import click
import yaml
from rich.table import Table

from rtd_plugin.cli.console import out, print_json, print_text
from rtd_plugin.contract import plugins
from rtd_plugin.errors import RTDError


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(name: str | None, as_json: bool) -> None:
    """List the recipes that are installed, or show the one of that NAME.

    \b
    Example:
      rtd-plugin recipes lincir-miniature
    """
    if name is not None:
        text, values = _read(plugins.find_recipe(name))
        if as_json:
            print_json({"name": name, "recipe": values})
        else:
            print_text(text)
        return
    found = {recipe: _read(path)[1] for recipe, path in plugins.list_recipes().items()}
    if as_json:
        print_json({"recipes": list(found)})
        return
    table = Table("recipe", "adapter", "backbone", "steps")
    for recipe, values in found.items():
        backbone = values.get("backbone") or {}
        cells = (values.get("adapter"), backbone.get("model"), values.get("steps"))
        table.add_row(recipe, *("" if cell is None else str(cell) for cell in cells))
    out().print(table)


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    """A recipe as text and as plain values; whether they fit is found out when it is used."""
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RTDError(f"{path}: not a readable YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise RTDError(f"{path}: not a recipe: it should hold keys and values")
    return text, values

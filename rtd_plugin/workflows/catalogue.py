"""Adapters and recipes of plugins, as plain values. Imports neither torch nor the code of a method's model."""

from pathlib import Path
from typing import Any

from rtd_plugin.contract import plugins
from rtd_plugin.training.yaml_lines import load_yaml, name_files, read_values


def describe_adapters() -> list[dict[str, str]]:
    """Return name, home and prompt of each adapter."""
    return [
        {"name": adapter.name, "home": adapter.home, "prompt": adapter.prompt.template}
        for adapter in plugins.list_adapters().values()
    ]


def load_recipes() -> dict[str, dict[str, Any]]:
    """Return the keys and values of each recipe that plugins ship, by name.

    Raises:
        UsageError: one of the files is not a recipe.
    """
    return {name: read_values(recipe)[1] for name, recipe in plugins.list_recipes().items()}


def load_recipe(name_or_file: str | Path) -> tuple[str, dict[str, Any]]:
    """Return one recipe's text, and its keys and values; with absolute paths of files beside it.

    Written to another folder, the text is the same recipe.

    Raises:
        UsageError: there is no such recipe, or its file is not a recipe.
    """
    recipe = plugins.find_recipe(str(name_or_file))
    text = name_files(read_values(recipe)[0], recipe.path.parent)
    return text, load_yaml(text)

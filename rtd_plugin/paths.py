"""Paths in recipes: relative to the recipe that names them, or to the current folder on the command line."""

import os.path
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationInfo


class CommandLineText(str):
    """A value given on the command line instead of in a recipe's file."""


def _absolute(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str | Path):
        return value
    folder = Path.cwd() if isinstance(value, CommandLineText) or not info.context else info.context["folder"]
    return folder / os.path.expanduser(value)  # Path.expanduser fails where there is no such user


RecipePath = Annotated[Path, BeforeValidator(_absolute)]
"""A file or folder that a recipe names, made absolute when the recipe is read."""


def _absolute_if_file(value: Any, info: ValidationInfo) -> Any:
    return str(_absolute(value, info)) if isinstance(value, str) and value.endswith(".json") else value


ModelName = Annotated[str, BeforeValidator(_absolute_if_file)]
"""An open_clip architecture, or a file in the format of open_clip's model configurations."""

"""Paths in recipes, relative to the recipe's folder, or to the current folder if given on the command line."""

import os.path
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationInfo


class CommandLineText(str):
    """A value from the command line that overrides the recipe's."""


def check_name(name: str) -> None:
    """Check that an operating system can take a text as the name of a file.

    Raises:
        ValueError: it holds NUL, or half a surrogate pair.
    """
    try:
        os.fsencode(name)
    except UnicodeEncodeError as error:
        raise ValueError(f"{name!r} is not the name of a file") from error
    if "\0" in name:
        raise ValueError(f"{name!r} is not the name of a file")


def _make_absolute(value: Any, info: ValidationInfo) -> Any:
    if not isinstance(value, str | Path):
        return value
    check_name(str(value))
    folder = Path.cwd() if isinstance(value, CommandLineText) or not info.context else info.context["folder"]
    return folder / os.path.expanduser(value)  # Path.expanduser raises for unknown users


RecipePath = Annotated[Path, BeforeValidator(_make_absolute)]
"""A file or folder that a recipe names, made absolute when the recipe is read."""


def _make_file_absolute(value: Any, info: ValidationInfo) -> Any:
    return str(_make_absolute(value, info)) if isinstance(value, str) and value.endswith(".json") else value


ModelName = Annotated[str, BeforeValidator(_make_file_absolute)]
"""An open_clip architecture, or a file in the format of open_clip's model configurations."""

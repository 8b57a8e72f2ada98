"""Paths in recipes, relative to the recipe's folder, or to the current folder if given on the command line."""

import os.path
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, PlainValidator, ValidationInfo


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


def _read_projection(value: Any, info: ValidationInfo) -> Path | dict[str, Path]:
    if isinstance(value, str | Path):
        return _make_absolute(value, info)
    if isinstance(value, dict) and value and all(isinstance(file, str | Path) for file in value.values()):
        return {str(name): Path(_make_absolute(file, info)) for name, file in value.items()}
    raise ValueError(f"expected a file, or for some adapters a mapping of names to files, found {reprlib.repr(value)}")


ProjectionFiles = Annotated[
    Path | dict[str, Path],
    PlainValidator(_read_projection),
    PlainSerializer(lambda value: {k: str(v) for k, v in value.items()} if isinstance(value, dict) else str(value)),
]
"""A projection's file, or a mapping of the adapter's `projection_files` to files; paths as `RecipePath`."""


def name_projection(projection: str | Path | Mapping[str, str | Path]) -> str:
    """Return the names of a projection's files without their folders, for messages."""
    files = projection.values() if isinstance(projection, Mapping) else [projection]
    return ", ".join(Path(file).name for file in files)

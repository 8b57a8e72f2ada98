"""Folders that commands make for their results."""

from contextlib import suppress
from itertools import count
from pathlib import Path

from rtd_plugin.errors import RTDError


def make_folder(output: Path | None, parent: Path, name: str) -> Path:
    """Make the folder that was asked for, which may be there; or one in `parent`, new, named so or with a number.

    Raises:
        RTDError: it cannot be made.
    """
    try:
        if output is None:
            return _new_folder(parent, name)
        output.mkdir(parents=True, exist_ok=True)
        return output
    except OSError as error:
        raise RTDError(f"{error.filename}: cannot be made ({error.strerror}): pass another --output") from error


def _new_folder(parent: Path, name: str) -> Path:
    # Of several commands that look for a free name at once, each gets its own.
    for number in count(1):
        folder = parent / (f"{name}-{number}" if number > 1 else name)
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise AssertionError("there is always one more number")

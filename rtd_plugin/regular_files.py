"""Opens files whose names come from users, recipes and annotations: regular files only, of a bounded size.

Opening a named pipe blocks until something writes to it, and a device may never end. The whole package reads files
through this module; `check_regular` is for libraries that open a file by its name. Standard library only.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO, cast

from rtd_plugin.errors import RTDError

MAX_BYTES = 10**9  # of a file that is read whole
BLOCK = 2**20  # bytes read at once


def check_regular(path: str | os.PathLike[str]) -> None:
    """Check that a path is a regular file, after following links, without opening it.

    Raises:
        OSError: it is a folder, a pipe, a socket or a device, or does not exist.
    """
    _check_mode(path, os.stat(path).st_mode)


def resolve_links(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path without links; a link to itself, for which `Path.resolve` raises RuntimeError, stays.

    Raises:
        ValueError: the path holds NUL.
    """
    return Path(os.path.realpath(path))


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading, without waiting if a named pipe has replaced it.

    Raises:
        OSError: as `check_regular`, or it cannot be read.
    """
    check_regular(path)  # opening some devices has side effects
    file = cast(BinaryIO, open(path, "rb", opener=_open_without_waiting))  # noqa: SIM115
    try:
        _check_mode(path, os.fstat(file.fileno()).st_mode)  # the path may name another file by now
    except OSError:
        file.close()
        raise
    return file


def read_bytes(path: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> bytes:
    """Return the content of a regular file.

    Raises:
        OSError: as `open_regular`, or the file is larger than `max_bytes`.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > max_bytes:
            raise OSError(errno.EFBIG, f"larger than {max_bytes:,} bytes", os.fspath(path))
        return file.read()


def read_text(path: str | os.PathLike[str], encoding: str = "utf-8", errors: str = "strict") -> str:
    r"""Return the text of a regular file, with `\n` as line ends.

    Raises:
        OSError: as `read_bytes`.
        UnicodeDecodeError: the content is not in the encoding.
    """
    text = read_bytes(path).decode(encoding, errors)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        RTDError: the file cannot be read, or holds something else.
    """
    try:
        content = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise RTDError(f"{path}: not a readable JSON file ({error})") from error
    if not isinstance(content, dict):
        raise RTDError(f"{path}: not a JSON object")
    return content


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    content = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(BLOCK):
            content.update(block)
    return content.hexdigest()


def _open_without_waiting(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NONBLOCK)


def _check_mode(path: str | os.PathLike[str], mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "a pipe, socket or device, not a regular file", os.fspath(path))

"""The cache folder: results that can be recomputed, each under a hash of everything it depends on.

An entry is a folder of files with an index of their sizes and checksums. `build_once` checks it whenever it is opened
and builds it again if it is damaged: a flipped bit in cached tokens would otherwise train a model on wrong texts.
"""

import hashlib
import json
import logging
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rtd_plugin.files import WriteError, write_atomically, write_text
from rtd_plugin.regular_files import open_regular, read_text

INDEX = "index.json"
CHECKED_BYTES = 2**29  # larger entries have only their sizes checked when opened: checksums read 0.7 GB per second
BLOCK = 2**20  # bytes read at once


def cache_folder() -> Path:
    """Return the cache folder: $RTD_PLUGIN_CACHE, or rtd-plugin in $XDG_CACHE_HOME or ~/.cache."""
    if os.environ.get("RTD_PLUGIN_CACHE"):
        return Path(os.environ["RTD_PLUGIN_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rtd-plugin"


def hash_key(key: Any) -> str:
    """Return the hash of a JSON value: 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]


def build_once(group: str, key: Any, build: Callable[[Path], None]) -> Path:
    """Return an entry's folder; build it if it is missing or damaged. Only one of several processes builds it.

    Args:
        group: the subfolder of the cache folder that holds entries of one type.
        key: everything that the entry depends on, as a JSON value.
        build: writes the entry's files into an empty folder.

    Raises:
        WriteError: the cache folder cannot be written.
        Exception: `build` raised it; nothing is kept.

    Example:
        >>> folder = build_once("squares", [1, 2, 3], lambda folder: write_text(folder / "squares.json", "[1, 4, 9]"))
        >>> (folder / "squares.json").read_text()
        '[1, 4, 9]'
    """
    folder = cache_folder() / group / hash_key(key)
    if _is_intact(folder):
        return folder
    with lock(folder.with_suffix(".lock")):
        if not _is_intact(folder):
            if folder.exists():
                logging.getLogger(__name__).warning("%s: damaged, building it again", folder)
            try:
                with write_atomically(folder) as draft:
                    draft.mkdir()
                    build(draft)
                    write_record(draft / INDEX, {path.name: _describe(path) for path in sorted(draft.iterdir())})
            except WriteError as error:
                raise WriteError(f"{error}: set RTD_PLUGIN_CACHE") from error
    return folder


@contextmanager
def lock(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold a lock file, which is created with its folder; the lock ends with the process that holds it.

    Args:
        path: the lock file.
        wait: whether to wait until other processes release the lock.

    Yields:
        Whether the lock is held: always if `wait`.

    Raises:
        WriteError: the lock file cannot be created.
    """
    file_lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file_lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise WriteError(f"{path.parent}: cannot be written ({error.strerror}): set RTD_PLUGIN_CACHE") from error
    try:
        yield True
    finally:
        file_lock.release()


def write_record(path: Path, value: Any) -> None:
    """Write a JSON value with its checksum to a file.

    Raises:
        WriteError: the file cannot be written.
    """
    write_text(path, json.dumps({"value": value, "crc32": _checksum_json(value)}))


def read_record(path: Path) -> Any:
    """Return the value that `write_record` wrote, or None if the file is missing or damaged."""
    try:
        record = json.loads(read_text(path))
        return record["value"] if record["crc32"] == _checksum_json(record["value"]) else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _checksum_json(value: Any) -> int:
    return zlib.crc32(json.dumps(value).encode())


def _describe(path: Path) -> list[int]:
    """Return a file's size and checksum."""
    checksum = 0
    with open_regular(path) as file:
        while block := file.read(BLOCK):
            checksum = zlib.crc32(block, checksum)
    return [path.stat().st_size, checksum]


def _is_intact(folder: Path) -> bool:
    index = read_record(folder / INDEX)
    if index is None:
        return False
    try:
        if any((folder / name).stat().st_size != size for name, (size, _) in index.items()):
            return False
        if sum(size for size, _ in index.values()) > CHECKED_BYTES:
            return True
        return all(_describe(folder / name) == description for name, description in index.items())
    except OSError:
        return False

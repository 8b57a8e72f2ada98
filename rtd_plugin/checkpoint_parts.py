"""The files that a checkpoint consists of, their digest, and keys in it; standard library only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rtd_plugin.errors import RTDError
from rtd_plugin.regular_files import hash_file, read_json


def split_key(path: Path) -> tuple[Path, str | None]:
    """Return file and key of `FILE#KEY`, which names one of several state dicts in a file; the key may be missing."""
    name, mark, key = path.name.rpartition("#")
    return (path.with_name(name), key) if mark and name and not path.exists() else (path, None)


def list_checkpoint_files(path: Path) -> list[Path]:
    """Return the files of a checkpoint as `read_checkpoint` takes it: one, or an index and the files that it names.

    Raises:
        RTDError: the index is broken.
    """
    file, _ = split_key(path)
    if not (file.suffix == ".json" and ".index." in file.name):
        return [file]
    shards = read_json(file).get("weight_map")
    names = set(shards.values()) if isinstance(shards, dict) else set()
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise RTDError(f"{file}: not the index of a checkpoint in several files")
    return [file, *(file.with_name(name) for name in sorted(names))]


def hash_checkpoint(path: Path) -> str:
    """Return the SHA-256 of a checkpoint's file; of several files, that of their SHA-256s.

    Raises:
        RTDError: the index is broken.
        OSError: a file cannot be read.
    """
    digests = [hash_file(file) for file in list_checkpoint_files(path)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def flatten_checkpoint(checkpoint: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a checkpoint's nested dictionaries as one, their keys joined by dots; each dictionary is read once."""
    values: dict[str, Any] = {}
    visited: set[int] = set()
    pending: list[tuple[str, Mapping[Any, Any]]] = [("", checkpoint)]
    while pending:
        prefix, mapping = pending.pop()
        if id(mapping) not in visited:
            visited.add(id(mapping))
            items = [(f"{prefix}{key}", value) for key, value in mapping.items()]
            values.update((key, value) for key, value in items if not isinstance(value, Mapping))
            pending += [(f"{key}.", value) for key, value in reversed(items) if isinstance(value, Mapping)]
    return values

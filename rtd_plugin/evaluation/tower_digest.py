"""Caches the digest of an image tower: hashing a large tower takes seconds."""

import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rtd_plugin.cache import hash_key, read_record, write_record
from rtd_plugin.checkpoint_parts import list_checkpoint_files
from rtd_plugin.clip.backbones import ImageEncoder
from rtd_plugin.evaluation.feature_cache import describe_module, hash_module
from rtd_plugin.files import WriteError
from rtd_plugin.regular_files import resolve_links

TICK = 2 * 10**9  # nanoseconds: on the coarsest file system two changes within this time may leave the same times


def hash_tower(encoder: ImageEncoder, folder: Path, *settings: str) -> str:
    """Return `hash_module` of an image tower with settings; computed once for an unchanged file.

    Args:
        encoder: the tower, as read from `encoder.source`.
        folder: where digests are cached, each under its file's path, size and times, the versions that read it, and
            the tower's structure.
    """
    state = _describe_files(encoder.source)
    if state is None:
        return hash_module(encoder.visual, *settings)
    readers = [version("rtd-plugin"), version("open_clip_torch")]
    path = folder / f"{hash_key([state, readers, describe_module(encoder.visual, *settings)])}.json"
    digest = read_record(path)
    if digest is None:
        digest = hash_module(encoder.visual, *settings)
        if all(moment < time.time_ns() - TICK for _, _, *times in state[1:] for moment in times):
            with suppress(WriteError):  # the next run hashes again
                write_record(path, digest)
    return digest


def _describe_files(source: Path | None) -> list[Any] | None:
    if source is None:
        return None
    try:
        files = [(str(resolve_links(file)), file.stat()) for file in list_checkpoint_files(source)]
    except OSError:
        return None
    return [source.name, *([path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns] for path, stat in files)]

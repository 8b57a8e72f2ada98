"""Caches what sources read: a later run with unchanged files starts without reading them."""

import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rtd_plugin.cache import cache_folder, hash_key, lock, read_record, write_record
from rtd_plugin.errors import RTDError
from rtd_plugin.files import WriteError
from rtd_plugin.regular_files import resolve_links
from rtd_plugin.triplets.triplet import Triplets, TripletSet, TripletSource

FORMAT = 1  # increase it when a source reads other triplets from the same files
TICK = 2 * 10**9  # nanoseconds: on the coarsest file system two changes within this time may leave the same times


def open_source(source: TripletSource) -> TripletSet:
    """Return the triplets of a source; if its files have not changed since an earlier run, read them only when used.

    Raises:
        RTDError: as `TripletSource.load`.
    """
    state = _describe(source)
    if state is None:
        return source.load()
    path = cache_folder() / "sources" / f"{hash_key(state)}.json"
    try:
        with lock(path.with_suffix(".lock")):  # one of several processes reads
            return _read_cached(source, path) or _load(source, state, path)
    except WriteError:  # the cache folder cannot be written
        return _read_cached(source, path) or source.load()


def _describe(source: TripletSource) -> list[Any] | None:
    """Return everything that the triplets depend on, or None if the source does not say."""
    paths = source.depends_on()
    if paths is None:
        return None
    try:
        files = [(str(resolve_links(path)), path.stat()) for path in paths]
    except OSError:
        return None  # `load` raises the error
    options = source.model_dump(mode="json", exclude={"weight"})
    return [
        [FORMAT, version("rtd-plugin"), f"{type(source).__module__}.{type(source).__qualname__}", options],
        [[path, file.st_size, file.st_mtime_ns, file.st_ctime_ns, file.st_ino] for path, file in files],
    ]


def _read_cached(source: TripletSource, path: Path) -> TripletSet | None:
    record = read_record(path)
    if record is None:
        return None
    digest, count, skipped = record

    def load() -> Triplets:
        loaded = source.load()
        if loaded.digest != digest:
            raise RTDError(f"the triplets of the source `{source.name}` changed during start-up; start again")
        return loaded.triplets

    return TripletSet(load, digest, skipped, count)


def _load(source: TripletSource, state: list[Any], path: Path) -> TripletSet:
    """Load triplets; cache them if their files cannot have changed meanwhile."""
    settled = time.time_ns() - TICK
    triplets = source.load()
    record = [triplets.digest, triplets.count, triplets.skipped]
    newest = max((moment for _, _, *times, _ in state[1] for moment in times), default=0)
    if newest < settled and _describe(source) == state:
        with suppress(WriteError):  # a full disk: the next run reads again
            write_record(path, record)
    return triplets

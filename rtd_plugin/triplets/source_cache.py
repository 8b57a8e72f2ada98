"""What sources found in their files, kept, so that a run on files that were read before starts without reading them."""

import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rtd_plugin.cache import cache_folder, hash_key, lock, read_record, write_record
from rtd_plugin.errors import RTDError
from rtd_plugin.files import WriteError
from rtd_plugin.triplets.triplet import Triplet, TripletSet, TripletSource

FORMAT = 1  # of what is kept; another one too when sources find other triplets in the same files
TICK = 2 * 10**9  # nanoseconds: two changes of a file within that time may look like one, on the coarsest file system


def opened(source: TripletSource) -> TripletSet:
    """The triplets of a source, not read before they are asked for if its files are as they were the last time.

    Raises:
        RTDError: as `TripletSource.load` does.
    """
    state = _state(source)
    if state is None:
        return source.load()
    record = cache_folder() / "sources" / f"{hash_key(state)}.json"
    try:
        with lock(record.with_suffix(".lock")):  # of several processes one reads
            return _kept(source, record) or _loaded(source, state, record)
    except WriteError:
        return _kept(source, record) or source.load()


def _state(source: TripletSource) -> list[Any] | None:
    """All that the triplets depend on, None if that cannot be told."""
    kind = type(source)
    loads, tells = (next(base for base in kind.__mro__ if name in vars(base)) for name in ("load", "depends_on"))
    if not issubclass(tells, loads):  # what a source's `depends_on` says is not of its subclass' `load`
        return None
    paths = source.depends_on()
    if paths is None:
        return None
    try:
        files = [(str(path.resolve()), path.stat()) for path in paths]
    except OSError:
        return None  # loading will say what is wrong
    options = source.model_dump(mode="json", exclude={"weight"})
    return [
        [FORMAT, version("rtd-plugin"), f"{kind.__module__}.{kind.__qualname__}", options],
        [[path, file.st_size, file.st_mtime_ns, file.st_ctime_ns, file.st_ino] for path, file in files],
    ]


def _kept(source: TripletSource, record: Path) -> TripletSet | None:
    try:
        digest, count, skipped = read_record(record)
    except (ValueError, TypeError):
        return None  # missing or damaged

    def triplets() -> Sequence[Triplet]:
        found = source.load()
        if found.digest != digest:
            raise RTDError(f"the triplets of the source `{source.name}` changed just now; start again")
        return found.triplets

    return TripletSet(triplets, digest, skipped, count)


def _loaded(source: TripletSource, state: list[Any], record: Path) -> TripletSet:
    """Load triplets, and keep what they are if their files cannot have changed meanwhile."""
    settled = time.time_ns() - TICK
    found = source.load()
    kept = [found.digest, found.count, found.skipped]
    changes = [moment for _, _, modified, changed, _ in state[1] for moment in (modified, changed)]
    if max(changes, default=0) < settled and _state(source) == state:
        with suppress(WriteError):  # no room: the next run reads again
            write_record(record, kept)
    return found

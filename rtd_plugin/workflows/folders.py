"""Folders that commands make for their results, and the lock of a run's folder."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from rtd_plugin.errors import RTDError
from rtd_plugin.regular_files import read_text

LOCK_FILE, HOLDER_FILE = ".lock", ".lock.pid"

log = logging.getLogger(__name__)


def make_folder(output: Path | None, parent: Path, name: str) -> Path:
    """Make the folder `output`, which may exist; without one, a new folder in `parent`, called `name` or `name-2`, ….

    Raises:
        RTDError: the folder cannot be made.
    """
    try:
        if output is None:
            return _make_new_folder(parent, name)
        output.mkdir(parents=True, exist_ok=True)
        return output
    except OSError as error:
        raise RTDError(f"{error.filename}: cannot be made ({error.strerror}): pass another --output") from error


def _make_new_folder(parent: Path, name: str) -> Path:
    # mkdir is atomic: of several commands that look for a free name at once, each gets another.
    for index in count(1):
        folder = parent / (f"{name}-{index}" if index > 1 else name)
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise AssertionError("unreachable")


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep other processes from training in a run's folder; remove the folder at the end if it stayed empty.

    The kernel releases the lock of a process that dies, so a lock is never stale. The process's id is in a
    separate file, because taking a lock may truncate the lock's file.

    Raises:
        RTDError: another process holds the lock.
    """
    lock, holder = FileLock(folder / LOCK_FILE, timeout=0), folder / HOLDER_FILE
    try:
        lock.acquire()
    except Timeout as error:
        raise RTDError(f"{folder}: another process trains this run{_describe_holder(holder)}") from error
    except (OSError, NotImplementedError) as error:
        log.warning(f"{folder}: cannot be locked ({error}); do not train this run twice at once.")
    else:
        with suppress(OSError):
            holder.write_text(str(os.getpid()))
    try:
        yield
    finally:
        with suppress(OSError):
            holder.unlink(missing_ok=True)
            # The lock's file is removed while the lock is held, so no other process can hold it.
            (folder / LOCK_FILE).unlink(missing_ok=True)
            folder.rmdir()  # fails if the run left files
        lock.release()


def _describe_holder(holder: Path) -> str:
    try:
        return f" (pid {int(read_text(holder))})"
    except (OSError, ValueError):
        return ""

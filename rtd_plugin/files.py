"""Writes files atomically."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from rtd_plugin.errors import RTDError

DRAFT_MARK = ".rtd-"  # in the name of a draft's folder, before eight random characters
DRAFT_LOCK = ".rtd-plugin-draft"  # the lock file in that folder
STALE_AFTER = 24 * 3600  # seconds: an unlocked draft of that age was left by a killed process


class WriteError(RTDError):
    """A file or folder that cannot be written."""


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yield a path to write a file or create a folder at, which replaces `path` if the block ends without an error.

    The content is on the disk before it replaces what was there, so not even a power failure leaves half a file.

    Raises:
        WriteError: the disk is full or the folder cannot be written; `path` is as it was before.
    """
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_stale_drafts(path.parent)
            draft = stack.enter_context(_draft_folder(path))
            yield draft / path.name
            _set_mode(draft / path.name, draft / f"{path.name}.mode")
            _flush(draft / path.name)
            if path.is_dir():
                _replace_folder(path, draft / path.name, draft / f"{path.name}.replaced")
            else:
                os.replace(draft / path.name, path)
            _flush_folder(path.parent)
        except (OSError, SafetensorError) as error:
            raise WriteError(f"{path}: cannot be written ({first_line(error)})") from error
        except RuntimeError as error:
            # torch.save reports a full disk as a RuntimeError of its archive writer, or of C++'s stream below it.
            if not any(name in str(error) for name in ("PytorchStreamWriter", "inline_container", "iostream")):
                raise
            raise WriteError(f"{path}: cannot be written ({first_line(error)})") from error


@contextmanager
def _draft_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`, locked as long as this process uses it and removed afterwards."""
    draft = Path(tempfile.mkdtemp(prefix=f".{path.name}{DRAFT_MARK}", dir=path.parent))
    lock = FileLock(draft / DRAFT_LOCK)
    try:
        with suppress(NotImplementedError):  # a file system without locks: the draft never counts as stale
            lock.acquire()
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        lock.release()


def _remove_stale_drafts(folder: Path) -> None:
    """Remove the drafts of killed processes: old ones that no process has locked."""
    for draft in folder.glob(f".*{DRAFT_MARK}????????"):
        with suppress(OSError, NotImplementedError, Timeout):
            # A process killed just after it made the draft, or while it removed it, leaves no lock file.
            lock = draft / DRAFT_LOCK if (draft / DRAFT_LOCK).exists() else draft
            if lock.stat().st_mtime < time.time() - STALE_AFTER:
                with FileLock(draft / DRAFT_LOCK).acquire(timeout=0):
                    shutil.rmtree(draft, ignore_errors=True)


def _set_mode(path: Path, probe: Path) -> None:
    """Give files the mode of any new file: safetensors creates files that only their owner can read."""
    probe.touch()
    mode = probe.stat().st_mode & 0o777
    for file in (path, *path.rglob("*")):
        if file.is_file():
            file.chmod(mode)


def _flush(path: Path) -> None:
    """Wait until a file, or everything in a folder, is on the disk."""
    for entry in (*path.rglob("*"), path):
        if entry.is_dir():
            _flush_folder(entry)
        else:
            with entry.open("rb") as file:
                os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    with suppress(OSError):  # not every file system supports it; the content of files is safe without it
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _replace_folder(path: Path, new: Path, aside: Path) -> None:
    if not new.is_dir():
        raise IsADirectoryError(f"it is a folder, which cannot be replaced by the file {new.name}")
    os.replace(path, aside)
    try:
        os.replace(new, path)
    except OSError:
        os.replace(aside, path)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically.

    Raises:
        WriteError: as `write_atomically`.
    """
    with write_atomically(path) as draft:
        draft.write_text(text, encoding="utf-8")


def first_line(error: BaseException) -> str:
    """Return the first sentence of an error, or its type if the error is empty."""
    return str(error).strip().split("\n")[0].split(". ")[0] or type(error).__name__

"""What people see: tables on stdout, progress on stderr."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_INTERVAL = 10.0  # seconds between lines where there is no terminal


class Advance(Protocol):
    """Tells how much is done, of how much, and a note such as the loss."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def out() -> Console:
    """Results, on stdout; brackets and colons in paths are no markup."""
    return Console(highlight=False, markup=False, emoji=False)


def err() -> Console:
    """Everything else, on stderr."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


@contextmanager
def progress(what: str, shown: bool = True) -> Iterator[Advance]:
    """A progress bar on a terminal, a plain line now and then elsewhere, or nothing."""
    if not shown:
        yield lambda done, total, note="": None
    elif sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=err()) as bar:
            task = bar.add_task(what, total=None, note="")
            yield lambda done, total, note="": bar.update(task, completed=done, total=total, note=note)
    else:
        last = time.monotonic()

        def line(done: int, total: int, note: str = "") -> None:
            nonlocal last
            if done == total or time.monotonic() - last >= PLAIN_INTERVAL:
                last = time.monotonic()
                print(f"{what} {done}/{total} {note}".rstrip(), file=sys.stderr, flush=True)

        yield line

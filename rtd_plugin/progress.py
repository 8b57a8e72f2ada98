"""The progress of long work: what the caller passes in, and what the work calls."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Advance(Protocol):
    """Callback of work that takes long: `advance(done, total, note)`.

    `done` and `total` count the same things, and `done == total` ends the work; `total` is 0 while it is not known.
    `note` is a few words, such as the loss.
    """

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


class Progress(Protocol):
    """Opens a block of work: `with progress("Encoding images") as advance: …`."""

    def __call__(self, description: str) -> AbstractContextManager[Advance]: ...


def ignore_progress(done: int, total: int, note: str = "") -> None:
    """Do nothing: the `Advance` of callers that do not watch."""


@contextmanager
def no_progress(description: str) -> Iterator[Advance]:
    """Show nothing: the `Progress` of callers that do not watch."""
    yield ignore_progress

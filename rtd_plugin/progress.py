"""Progress of a long operation: the callbacks that a caller passes in."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Advance(Protocol):
    """Callback of a long operation: `advance(done, total, note)`.

    `done` and `total` count the same things, and `done == total` ends the operation; `total` is 0 while it is unknown.
    `note` is a few words, such as the loss.
    """

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


class Progress(Protocol):
    """Context manager around a long operation: `with progress("Encoding images") as advance: …`."""

    def __call__(self, description: str) -> AbstractContextManager[Advance]: ...


def ignore_progress(done: int, total: int, note: str = "") -> None:
    """Do nothing: the `Advance` of callers that show no progress."""


@contextmanager
def no_progress(description: str) -> Iterator[Advance]:
    """Show nothing: the `Progress` of callers that show no progress."""
    yield ignore_progress

"""Answers concurrent queries in batches: one thread takes all that wait."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

BATCH = 32  # queries that are answered together

Query = TypeVar("Query")
Answer = TypeVar("Answer")


class Batcher(Generic[Query, Answer]):
    """One thread that answers queries of others: while it works on a batch, the next one gathers.

    Args:
        answer: gives the answers of up to `BATCH` queries, or an exception in place of one.
        observe: called with the size of each batch.
    """

    def __init__(
        self, answer: Callable[[Sequence[Query]], Sequence[Answer | Exception]], observe: Callable[[int], object]
    ):
        self._answer = answer
        self._observe = observe
        self._waiting: queue.SimpleQueue[tuple[Query, Future[Answer]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="queries", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether queries are still answered."""
        return self._thread.is_alive()

    def submit(self, query: Query) -> Future[Answer]:
        """Add a query; one whose future is cancelled while it waits is not answered."""
        future: Future[Answer] = Future()
        self._waiting.put((query, future))
        return future

    def close(self) -> None:
        """Wait for the batch in work and end the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch, is_last = [first], False
            while len(batch) < BATCH and not self._waiting.empty():  # no other thread takes from it
                following = self._waiting.get()
                if following is None:
                    is_last = True
                    break
                batch.append(following)
            batch = [(query, future) for query, future in batch if future.set_running_or_notify_cancel()]
            if batch:
                self._observe(len(batch))
                self._answer_batch(batch)
            if is_last:
                return

    def _answer_batch(self, batch: Sequence[tuple[Query, Future[Answer]]]) -> None:
        try:
            answers = self._answer([query for query, _ in batch])
        except Exception as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            for each in batch:  # so that a query that fails fails alone
                self._answer_batch([each])
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

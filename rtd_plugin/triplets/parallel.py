"""Work in several threads or processes, with results in order."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

Job, Result = TypeVar("Job"), TypeVar("Result")


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(pool: Executor, function: Callable[[Job], Result], jobs: Iterable[Job], ahead: int) -> Iterator[Result]:
    """What a function makes of jobs, in their order.

    Args:
        pool: where the function is called.
        function, jobs: what for.
        ahead: how many jobs are taken, and results kept, before they are asked for.
    """
    under_way: deque[Future[Result]] = deque()
    for job in jobs:
        under_way.append(pool.submit(function, job))
        if len(under_way) > ahead:
            yield under_way.popleft().result()
    while under_way:
        yield under_way.popleft().result()

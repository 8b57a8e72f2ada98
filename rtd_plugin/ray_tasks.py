"""Work on the machines of a Ray cluster, with results in the order of the jobs (extra `ray`)."""

from __future__ import annotations

import functools
import logging
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from rtd_plugin.errors import RTDError, require_extra
from rtd_plugin.files import first_line

CONNECT_SECONDS = 10
RETRIES = 5  # of a job whose worker was killed

Job = TypeVar("Job")
Result = TypeVar("Result")
Shared = TypeVar("Shared")


class RayTasks:
    """A connection to a Ray cluster.

    All machines of it have rtd-plugin installed, and see files under the same paths.

    Args:
        address: of the cluster's head, or "auto" for the one that this machine belongs to.

    Raises:
        RTDError: there is no such cluster, or Ray is not installed.
    """

    def __init__(self, address: str):
        with require_extra("ray", "--ray"):
            import ray
        self._ray = ray
        if not ray.is_initialized():
            try:
                host, colon, port = address.rpartition(":")
                if colon and port.isdigit() and "/" not in host:
                    socket.create_connection((host, int(port)), CONNECT_SECONDS).close()  # Ray itself tries for minutes
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            except (OSError, RuntimeError, ValueError) as error:
                hint = "start one with `ray start --head`, or name its address"
                raise RTDError(f"--ray {address}: no Ray cluster ({first_line(error)}): {hint}") from error

    def map(
        self, function: Callable[[Shared, Job], Result], jobs: Iterable[Job], shared: Shared, gpus: bool = False
    ) -> Iterator[Result]:
        """Yield `function(shared, job)` of each job, in order; a worker that is killed costs the job that it had.

        Args:
            function: of a module that all machines have.
            jobs: taken as results are consumed, so that neither fill the memory.
            shared: sent to each machine once.
            gpus: whether each job has a GPU, where the cluster has any.

        Raises:
            RTDError: a job's worker was killed too often, or its function raised one.
        """
        ray = self._ray
        resource = "GPU" if gpus and ray.cluster_resources().get("GPU") else "CPU"
        run = ray.remote(max_retries=RETRIES, num_gpus=int(resource == "GPU"))(_run)
        references = (ray.put(function), ray.put(shared))
        pending: deque[Any] = deque()
        for job in jobs:
            pending.append(run.remote(list(references), job))  # in a list, so that each process gets them once
            if len(pending) > 2 * max(1, int(ray.cluster_resources().get(resource, 1))):
                yield self._get(pending.popleft())
        while pending:
            yield self._get(pending.popleft())

    def _get(self, reference: Any) -> Any:
        from ray.exceptions import RayError, RayTaskError

        try:
            result, failure = self._ray.get(reference)
        except RayTaskError:
            raise
        except RayError as error:
            sentence = f"a worker of Ray was killed {RETRIES + 1} times, probably because memory ran out"
            raise RTDError(f"{sentence}; the finished parts are kept ({first_line(error)})") from error
        if failure is not None:
            raise RTDError(failure)
        return result


def _run(references: list[Any], job: Any) -> tuple[Any, str | None]:
    """Return the result, or the sentence of an error, which need not be one that can be pickled."""
    function, shared = _get_shared(*references)
    try:
        return function(shared, job), None
    except RTDError as error:
        return None, str(error)


@functools.lru_cache(maxsize=1)
def _get_shared(*references: Any) -> list[Any]:
    """Return what is shared, which a process keeps until another call shares something else."""
    import ray

    return ray.get(list(references))

"""Build triplets from many captions by a language model; a stopped build can be resumed."""

import logging
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from rtd_plugin.errors import RTDError
from rtd_plugin.generation.captions import Caption, read_captions
from rtd_plugin.generation.llm.answers import AnswerFile
from rtd_plugin.generation.llm.prompt import build_messages, parse_answer
from rtd_plugin.generation.llm.server import RetryableError, Server
from rtd_plugin.progress import Advance, ignore_progress
from rtd_plugin.triplets.triplet import Triplet
from rtd_plugin.triplets.triplet_file import open_writer

_log = logging.getLogger(__name__)

MAX_PAUSE = 60.0  # seconds between two attempts
MAX_RUBBISH = 3  # answers to one caption that are not triplets


@dataclass
class LlmBuild:
    """The result of a build.

    Attributes:
        captions: captions read.
        done: captions answered, in this or an earlier build.
        left: captions that are not answered because the limit was reached.
        requests: requests sent by this build, retries included.
        rubbish: answers that are not triplets.
        refused: triplets among answers that were left out.
        triplets: triplets written.
        unusable: captions that could not be read.
    """

    captions: int = 0
    done: int = 0
    left: int = 0
    requests: int = 0
    rubbish: int = 0
    refused: int = 0
    triplets: int = 0
    unusable: int = 0


class Answer(NamedTuple):
    """The answer for one caption.

    Attributes:
        caption: the caption.
        triplets: its triplets.
        rubbish: answers before it that were not triplets.
        refused: objects in it that were left out.
    """

    caption: str
    triplets: list[Triplet]
    rubbish: int
    refused: int


class LimitReached(Exception):
    """No more requests may be sent."""


def build(
    captions: Path,
    output: Path,
    server: Server,
    *,
    limit: int,
    column: str | None = None,
    per_caption: int = 2,
    workers: int = 4,
    seed: int = 0,
    advance: Advance = ignore_progress,
) -> LlmBuild:
    """Ask a server for triplets of captions, and write them as JSON lines.

    Answers are kept beside the output (`OUTPUT.answers`) as they arrive, so a build that stopped, failed or reached its
    limit can be resumed; the file is removed when all captions are answered.

    Args:
        captions, column: as `read_captions` takes them.
        output: the file to write.
        limit: requests to send at most, retries included.
        per_caption: triplets to ask for.
        workers: concurrent requests.
        seed: sent with each request, for servers that use one.
        advance: called with the captions answered and read.

    Raises:
        RTDError: the captions cannot be read, the server does not answer, or a file cannot be written.
    """
    result = LlmBuild()
    budget = _Budget(limit)
    failure: RTDError | None = None

    def list_unanswered() -> Iterator[str]:
        for caption in read_captions(captions, column):
            if not isinstance(caption, Caption):
                result.unusable += 1
                continue
            result.captions += 1
            if caption.text in answers:
                continue
            if budget.is_spent:
                result.left += 1
                continue
            yield caption.text

    def ask(caption: str) -> Answer | None:
        try:
            return _ask(server, caption, per_caption, seed, budget)
        except LimitReached:
            return None

    with AnswerFile(find_answers(output)) as answers, ThreadPoolExecutor(workers) as pool:
        unanswered = list_unanswered()
        pending: set[Future[Answer | None]] = set()
        while failure is None:
            for caption in islice(unanswered, 2 * workers - len(pending)):
                pending.add(pool.submit(ask, caption))
            if not pending:
                break
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in finished:
                try:
                    answer = future.result()
                except RTDError as error:
                    failure = error
                    budget.close()
                    continue
                if answer is None:
                    result.left += 1
                    continue
                result.rubbish += answer.rubbish
                result.refused += answer.refused
                answers.add(answer.caption, answer.triplets)
            advance(len(answers), result.captions, f"{budget.used:,} requests")
    result.requests, result.done = budget.used, len(answers)
    if failure is not None:
        raise RTDError(
            f"{failure} (captions answered so far: {result.done:,}, kept in {answers.path.name}: run again to continue)"
        )
    result.triplets = _write(captions, column, answers, output)
    if not result.left:
        try:
            answers.path.unlink(missing_ok=True)
        except OSError as error:  # the triplets are written, and another build removes it
            _log.warning("%s: cannot be removed (%s), and is not needed any more", answers.path, error.strerror)
    return result


def find_answers(output: Path) -> Path:
    """Return the file in which a build keeps answers until it is finished."""
    return output.with_name(f"{output.name}.answers")


class _Budget:
    """The requests that threads may still send."""

    def __init__(self, limit: int) -> None:
        self._limit, self.used, self._lock = limit, 0, threading.Lock()

    @property
    def is_spent(self) -> bool:
        return self.used >= self._limit

    def spend(self) -> None:
        """Count a request.

        Raises:
            LimitReached: it may not be sent.
        """
        with self._lock:
            if self.is_spent:
                raise LimitReached
            self.used += 1

    def close(self) -> None:
        """Allow no more requests."""
        with self._lock:
            self._limit = self.used


def _ask(server: Server, caption: str, count: int, seed: int, budget: _Budget) -> Answer:
    """Ask until an answer has triplets, or too many answers have none.

    Raises:
        LimitReached: the budget is spent.
        RTDError: the server does not answer.
    """
    rubbish = 0
    reason = ""
    jitter = random.Random(f"{seed} {caption}")
    for attempt in range(server.attempts):
        budget.spend()
        try:
            text = server.ask(build_messages(caption, count), seed + attempt)
            triplets, refused = parse_answer(caption, text, count)
            return Answer(caption, triplets, rubbish, refused)
        except ValueError as error:
            rubbish += 1
            if rubbish == MAX_RUBBISH:
                return Answer(caption, [], rubbish, 0)
            reason = f"the answer is not triplets ({error})"
        except RetryableError as error:
            reason = str(error)
            if attempt + 1 < server.attempts:
                pause = server.pause * 2 ** min(attempt, 10) * (1 + jitter.random() / 2)
                time.sleep(min(pause if error.retry_after is None else error.retry_after, MAX_PAUSE))
    raise RTDError(f"{server.address} failed {server.attempts} times in a row: {reason}")


def _write(captions: Path, column: str | None, answers: AnswerFile, output: Path) -> int:
    """Write the distinct triplets of all answers, in the order of the captions; return how many there are."""
    seen: set[Triplet] = set()
    with open_writer(output) as write:
        for caption in read_captions(captions, column):
            if isinstance(caption, Caption):
                for condition, target in answers.get(caption.text):
                    triplet = Triplet(caption.text, condition, target)
                    if triplet not in seen:
                        seen.add(triplet)
                        write(triplet)
    return len(seen)

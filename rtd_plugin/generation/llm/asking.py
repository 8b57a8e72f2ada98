"""Ask a server many questions at once, within a limit of requests, and keep the answers."""

import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from rtd_plugin.errors import RTDError
from rtd_plugin.generation.llm.answers import AnswerFile
from rtd_plugin.generation.llm.server import RetryableError, Server
from rtd_plugin.progress import Advance

MAX_PAUSE = 60.0  # seconds between two attempts
MAX_RUBBISH = 3  # answers to one question in another form

Rows = list[list[str]]
Messages = list[dict[str, str]]


class Question(NamedTuple):
    """A question.

    Attributes:
        key: what its answer is kept under.
        messages: the conversation to send.
        parse: a function from the model's text to the rows of the answer and the count of those refused; it raises a
            ValueError if the text has another form.
    """

    key: str
    messages: Callable[[], Messages]
    parse: Callable[[str], tuple[Rows, int]]


@dataclass
class Asked:
    """What became of questions.

    Attributes:
        questions: read so far.
        left: not answered because the limit was reached.
        requests: sent, retries included.
        rubbish: answers in another form.
        refused: parts of answers that were left out.
    """

    questions: int = 0
    left: int = 0
    requests: int = 0
    rubbish: int = 0
    refused: int = 0


class LimitReached(Exception):
    """No more requests may be sent."""


def ask_all(
    server: Server,
    questions: Iterable[Question],
    answers: AnswerFile,
    *,
    limit: int,
    workers: int,
    seed: int,
    advance: Advance,
    noun: str,
) -> Asked:
    """Ask the questions that have no answer yet, and keep their answers as they arrive.

    Args:
        answers: kept by an earlier call, and by this one.
        limit: requests to send at most, retries included.
        workers: concurrent requests.
        seed: sent with each request, for servers that use one.
        advance: called with the questions answered and read.
        noun: what is asked about, in the plural, for messages.

    Raises:
        RTDError: the server does not answer; answers that arrived before are kept.
    """
    result = Asked()
    budget = _Budget(limit)
    failure: RTDError | None = None

    def list_unanswered() -> Iterable[Question]:
        for question in questions:
            result.questions += 1
            if question.key in answers:
                continue
            if budget.is_spent:
                result.left += 1
                continue
            yield question

    def ask(question: Question) -> _Answer | None:
        try:
            return _ask(server, question, seed, budget)
        except LimitReached:
            return None

    with ThreadPoolExecutor(workers) as pool:
        unanswered = iter(list_unanswered())
        pending: set[Future[_Answer | None]] = set()
        while failure is None:
            for question in islice(unanswered, 2 * workers - len(pending)):
                pending.add(pool.submit(ask, question))
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
                answers.add(answer.key, answer.rows)
            advance(len(answers), result.questions, f"{budget.used:,} requests")
    result.requests = budget.used
    if failure is not None:
        raise RTDError(
            f"{failure} ({noun} answered so far: {len(answers):,}, kept in {answers.path.name}: run again to continue)"
        )
    return result


class _Answer(NamedTuple):
    """The answer to a question.

    Attributes:
        key: of the question.
        rows: its content.
        rubbish: answers before it that had another form.
        refused: parts of it that were left out.
    """

    key: str
    rows: Sequence[Sequence[str]]
    rubbish: int
    refused: int


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


def _ask(server: Server, question: Question, seed: int, budget: _Budget) -> _Answer:
    """Ask until an answer has the right form, or too many answers have another one.

    Raises:
        LimitReached: the budget is spent.
        RTDError: the server does not answer.
    """
    rubbish = 0
    reason = ""
    jitter = random.Random(f"{seed} {question.key}")
    for attempt in range(server.attempts):
        budget.spend()
        try:
            rows, refused = question.parse(server.ask(question.messages(), seed + attempt))
            return _Answer(question.key, rows, rubbish, refused)
        except ValueError as error:
            rubbish += 1
            if rubbish == MAX_RUBBISH:
                return _Answer(question.key, [], rubbish, 0)
            reason = f"the answer has another form ({error})"
        except RetryableError as error:
            reason = str(error)
            if attempt + 1 < server.attempts:
                pause = server.pause * 2 ** min(attempt, 10) * (1 + jitter.random() / 2)
                time.sleep(min(pause if error.retry_after is None else error.retry_after, MAX_PAUSE))
    raise RTDError(f"{server.address} failed {server.attempts} times in a row: {reason}")

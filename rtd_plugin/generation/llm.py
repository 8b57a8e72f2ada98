"""Triplets of captions by a language model, behind any server that speaks OpenAI's chat protocol."""

import hashlib
import http.client
import json
import random
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rtd_plugin.errors import RTDError, UsageError
from rtd_plugin.files import write_atomically
from rtd_plugin.generation.captions import Caption, read_captions
from rtd_plugin.printable import KEY_VARIABLES, holds_secret, read_api_key, redact
from rtd_plugin.triplets.checks import problems_of
from rtd_plugin.triplets.records import text_fault
from rtd_plugin.triplets.triplet import Triplet

LARGEST_ANSWER = 1 << 20  # bytes
LARGEST_ERROR = 1 << 16  # bytes
SHOWN_OF_ERROR = 300  # characters
LONGEST_WAIT = 60.0  # seconds between two attempts
KEYS = ("reference_caption", "conditioning_caption", "target_caption")

SYSTEM = """You help to build training data for composed image retrieval. You get the caption of a picture. Think of \
other pictures that somebody might look for who has this picture as a starting point. For each, write the condition, a \
short request or remark that says how the other picture differs, and the target, the caption of the other picture.
Change one or two things only: an object, a colour, a number, a place, an action, something added or removed. Leave \
all else of the caption as it is. The condition must not repeat the whole target. Vary the style of the conditions.
Answer with a JSON array of objects with the keys "condition" and "target", and with nothing else."""
EXAMPLES = (
    (
        "A brown dog is lying on a blanket next to a red ball .",
        [
            (
                "Make the ball yellow and have the dog sit up.",
                "A brown dog is sitting on a blanket next to a yellow ball .",
            ),
            ("same but without the ball", "A brown dog is lying on a blanket ."),
        ],
    ),
    (
        "Two women are drinking coffee at a table outside a cafe",
        [
            ("shows three women instead of two", "Three women are drinking coffee at a table outside a cafe"),
            ("Is indoors, in a kitchen", "Two women are drinking coffee at a table in a kitchen"),
        ],
    ),
    (
        "a long blue dress with short sleeves",
        [
            ("is shorter and has a floral print", "a short blue floral dress with short sleeves"),
            ("has no sleeves and is black", "a long black sleeveless dress"),
        ],
    ),
)


@dataclass
class Sent:
    """What came of a build.

    Attributes:
        captions, done, left: captions read, answered in this or an earlier build, and not sent for want of `limit`.
        requests: sent now, retries included.
        rubbish: answers that were no triplets; refused: triplets among answers that were left out.
        triplets: written.
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


class Unanswered(Exception):
    """A request failed in a way that another attempt may mend."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class Spent(Exception):
    """No request is left of the limit."""


@dataclass(frozen=True)
class Server:
    """A server and a model on it.

    Args:
        endpoint: the address before `/chat/completions`, such as `http://localhost:8000/v1`.
        model: the model's name on the server.
        timeout: seconds that an answer may take.
        attempts: how often a request is sent before it counts as failed.
        pause: seconds before the second attempt; each later one waits twice as long.
    """

    endpoint: str
    model: str
    timeout: float = 120.0
    attempts: int = 6
    pause: float = 1.0

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"--endpoint {self.endpoint}: not an address such as http://localhost:8000/v1")
        if parts.username or parts.password or parts.query:
            raise UsageError(
                f"--endpoint: has a user name, password or query in it; a key is taken from the environment "
                f"({' or '.join(KEY_VARIABLES)}) only"
            )

    @property
    def address(self) -> str:
        return f"{self.endpoint.rstrip('/')}/chat/completions"

    def ask(self, messages: list[dict[str, str]], seed: int) -> str:
        """The model's answer.

        Raises:
            Unanswered: another attempt may help.
            RTDError: none will.
        """
        body = {"model": self.model, "messages": messages, "temperature": 1.0, "seed": seed}
        headers = {"Content-Type": "application/json"}
        key = read_api_key()
        if key:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.address, json.dumps(body).encode(), headers)
        try:
            with _OPENER.open(request, timeout=self.timeout) as answer:
                content = answer.read(LARGEST_ANSWER + 1)
        except urllib.error.HTTPError as error:
            with error:
                # Redacted before it is cut: the beginning of a key would pass.
                said = redact(error.read(LARGEST_ERROR).decode("utf-8", "replace"))
                said = " ".join(said.split())[:SHOWN_OF_ERROR]
            if error.code in (408, 409, 425, 429) or error.code >= 500:
                raise Unanswered(f"HTTP {error.code}", _seconds(error.headers.get("Retry-After"))) from error
            hint = f"; set {KEY_VARIABLES[0]}" if error.code in (401, 403) else ""
            raise RTDError(f"{self.address}: HTTP {error.code} ({said or error.reason}){hint}") from error
        except (OSError, http.client.HTTPException) as error:  # of the connection; a time-out is one
            raise Unanswered(str(getattr(error, "reason", error)) or type(error).__name__) from error
        try:
            choice = json.loads(content[:LARGEST_ANSWER])["choices"][0]["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
            raise Unanswered("an answer that is none of the chat protocol's") from error
        if not isinstance(choice, str):
            raise Unanswered("an answer without text")
        return choice


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would take the key elsewhere."""

    def redirect_request(self, *args: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def _seconds(after: str | None) -> float | None:
    try:
        return max(0.0, float(after)) if after else None
    except ValueError:
        return None


def messages_for(caption: str, wanted: int) -> list[dict[str, str]]:
    """The few-shot prompt for a caption."""
    messages = [{"role": "system", "content": SYSTEM}]
    for text, answers in EXAMPLES:
        messages.append({"role": "user", "content": _asked(text, len(answers))})
        answer = [{"condition": condition, "target": target} for condition, target in answers]
        messages.append({"role": "assistant", "content": json.dumps(answer)})
    return [*messages, {"role": "user", "content": _asked(caption, wanted)}]


def _asked(caption: str, wanted: int) -> str:
    return f"Caption: {' '.join(caption.split())}\nPictures: {wanted}"


def parse_answer(reference: str, answer: str, wanted: int) -> tuple[list[Triplet], int]:
    """The triplets in an answer, and how many of its objects are none that can be used.

    Raises:
        ValueError: the answer is not a JSON array of objects with the two keys.
    """
    text = answer.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text[3:-3].removeprefix("json").strip()
    try:
        objects = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(objects, list) or not objects:
        raise ValueError("no array")
    triplets: list[Triplet] = []
    for item in objects:
        if not isinstance(item, dict) or set(item) != {"condition", "target"}:
            raise ValueError("an object with other keys")
        if text_fault(item["condition"]) or text_fault(item["target"]):
            raise ValueError("a value that is no text")
        triplets.append(Triplet(reference, item["condition"].strip(), item["target"].strip()))
    distinct = list(dict.fromkeys(triplets[:wanted]))
    good = [triplet for triplet in distinct if not problems_of(triplet) and not any(map(holds_secret, triplet[1:]))]
    return good, len(objects) - len(good)


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
    progress: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> Sent:
    """Ask a server for triplets of captions, and write them as JSON lines.

    What was answered is kept beside the output (`OUTPUT.answers`) as it comes, so that a build that was stopped, failed
    or reached its limit goes on where it was; the file stays until all captions are answered.

    Args:
        limit: requests to send at most, retries included.
        per_caption: triplets to ask for.
        workers: requests under way at once.
        seed: sent along, for servers that heed one.

    Raises:
        RTDError: the captions cannot be read, or the server does not answer.
    """
    sent = Sent()
    answers = _Answers(answers_of(output))
    budget = _Budget(limit)
    failure: RTDError | None = None

    def todo() -> Iterator[Caption]:
        for caption in read_captions(captions, column):
            if not isinstance(caption, Caption):
                sent.unusable += 1
                continue
            sent.captions += 1
            if _mark(caption.text) in answers:
                continue
            if budget.spent:
                sent.left += 1
                continue
            yield caption

    def one(caption: str) -> tuple[str, list[Triplet], int, int] | None:
        try:
            return caption, *_answered(server, caption, per_caption, seed, budget)
        except Spent:
            return None

    waiting = todo()
    with answers, ThreadPoolExecutor(workers) as pool:
        running: set[Future[Any]] = set()
        while failure is None:
            for caption in islice(waiting, 2 * workers - len(running)):
                running.add(pool.submit(one, caption.text))
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                try:
                    found = future.result()
                except RTDError as error:
                    failure = error
                    budget.spend_all()
                    continue
                if found is None:
                    sent.left += 1
                    continue
                caption_text, triplets, rubbish, refused = found
                sent.rubbish += rubbish
                sent.refused += refused
                answers.add(caption_text, triplets)
            progress(len(answers), sent.captions, f"{budget.used:,} requests")
    sent.requests, sent.done = budget.used, len(answers)
    if failure is not None:
        raise RTDError(
            f"{failure} (captions answered so far: {sent.done:,}, kept in {answers.path.name}: build again to go on)"
        )
    sent.triplets = _write(captions, column, answers, output)
    if not sent.left:
        answers.path.unlink(missing_ok=True)
    return sent


def answers_of(output: Path) -> Path:
    """Where a build keeps answers until it is through."""
    return output.with_name(f"{output.name}.answers")


class _Budget:
    """How many requests may still be sent; threads share it."""

    def __init__(self, limit: int) -> None:
        self._limit, self.used, self._lock = limit, 0, threading.Lock()

    @property
    def spent(self) -> bool:
        return self.used >= self._limit

    def spend(self) -> None:
        with self._lock:
            if self.spent:
                raise Spent
            self.used += 1

    def spend_all(self) -> None:
        """Let no more requests be sent."""
        with self._lock:
            self._limit = self.used


def _answered(server: Server, caption: str, wanted: int, seed: int, budget: _Budget) -> tuple[list[Triplet], int, int]:
    """Triplets for a caption; answers that were rubbish; triplets that were refused."""
    rubbish = 0
    reason = ""
    jitter = random.Random(f"{seed} {caption}")
    for attempt in range(server.attempts):
        budget.spend()
        after: float | None = None
        try:
            answer = server.ask(messages_for(caption, wanted), seed + attempt)
            triplets, refused = parse_answer(caption, answer, wanted)
            return triplets, rubbish, refused
        except ValueError as error:
            rubbish += 1
            if rubbish > 2:  # the model cannot do this caption
                return [], rubbish, 0
            reason = f"rubbish ({error})"
            continue
        except Unanswered as error:
            reason, after = str(error), error.after
        if attempt + 1 < server.attempts:
            pause = server.pause * 2**attempt * (1 + jitter.random() / 2) if after is None else after
            time.sleep(min(pause, LONGEST_WAIT))
    raise RTDError(f"{server.address} failed {server.attempts} times in a row: {reason}")


def _mark(caption: str) -> str:
    return hashlib.blake2b(caption.encode(), digest_size=12).hexdigest()


class _Answers:
    """The file of answers: a line for each caption, written as it comes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: dict[str, list[list[str]]] = {}
        try:
            if path.is_file():
                for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                    try:
                        mark, rows = json.loads(line)
                        self._found[mark] = [[str(text) for text in row] for row in rows]
                    except (ValueError, TypeError):  # cut off when the machine stopped
                        continue
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise RTDError(f"{path}: cannot be written ({error.strerror or error})") from error

    def __enter__(self) -> "_Answers":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def __contains__(self, mark: str) -> bool:
        return mark in self._found

    def __len__(self) -> int:
        return len(self._found)

    def add(self, caption: str, triplets: list[Triplet]) -> None:
        rows = [[triplet.condition, triplet.target] for triplet in triplets]
        self._found[_mark(caption)] = rows
        try:
            self._file.write(json.dumps([_mark(caption), rows]) + "\n")
            self._file.flush()
        except OSError as error:
            raise RTDError(f"{self.path}: cannot be written ({error.strerror or error})") from error

    def of(self, caption: str) -> list[list[str]]:
        return self._found.get(_mark(caption), [])


def _write(captions: Path, column: str | None, answers: _Answers, output: Path) -> int:
    seen: set[tuple[str, str, str]] = set()
    with write_atomically(output) as draft, draft.open("w", encoding="utf-8") as file:
        for caption in read_captions(captions, column):
            if isinstance(caption, Caption):
                for condition, target in answers.of(caption.text):
                    triplet = (caption.text, condition, target)
                    if triplet not in seen:
                        seen.add(triplet)
                        file.write(json.dumps(dict(zip(KEYS, triplet, strict=True)), ensure_ascii=False) + "\n")
    return len(seen)

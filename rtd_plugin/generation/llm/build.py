"""Build triplets from many captions by a language model; a stopped build can be resumed."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rtd_plugin.generation.captions import Caption, read_captions
from rtd_plugin.generation.llm.answers import AnswerFile
from rtd_plugin.generation.llm.asking import Question, Rows, ask_all
from rtd_plugin.generation.llm.prompt import build_messages, parse_answer
from rtd_plugin.generation.llm.server import Server
from rtd_plugin.progress import Advance, ignore_progress
from rtd_plugin.triplets.triplet import Triplet
from rtd_plugin.triplets.triplet_file import open_writer

_log = logging.getLogger(__name__)


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

    def list_questions() -> Iterator[Question]:
        for caption in read_captions(captions, column):
            if isinstance(caption, Caption):
                text = caption.text
                yield Question(text, partial(build_messages, text, per_caption), partial(_parse, text, per_caption))
            else:
                result.unusable += 1

    with AnswerFile(find_answers(output)) as answers:
        asked = ask_all(
            server,
            list_questions(),
            answers,
            limit=limit,
            workers=workers,
            seed=seed,
            advance=advance,
            noun="captions",
        )
    result.captions, result.done = asked.questions, len(answers)
    result.left, result.requests, result.rubbish, result.refused = (
        asked.left,
        asked.requests,
        asked.rubbish,
        asked.refused,
    )
    result.triplets = _write(captions, column, answers, output)
    if not result.left:
        remove_answers(answers)
    return result


def find_answers(output: Path) -> Path:
    """Return the file in which a build keeps answers until it is finished."""
    return output.with_name(f"{output.name}.answers")


def remove_answers(answers: AnswerFile) -> None:
    """Remove the answers of a finished build."""
    try:
        answers.path.unlink(missing_ok=True)
    except OSError as error:  # the output is written, and another build removes it
        _log.warning("%s: cannot be removed (%s), and is not needed any more", answers.path, error.strerror)


def _parse(caption: str, count: int, text: str) -> tuple[Rows, int]:
    triplets, refused = parse_answer(caption, text, count)
    return [[triplet.condition, triplet.target] for triplet in triplets], refused


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

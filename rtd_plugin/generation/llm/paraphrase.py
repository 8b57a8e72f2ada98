"""Write the conditions of a triplet file in other words, with a language model; a stopped run can be resumed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rtd_plugin.errors import RTDError, UsageError
from rtd_plugin.generation.llm.answers import AnswerFile
from rtd_plugin.generation.llm.asking import Question, ask_all
from rtd_plugin.generation.llm.build import find_answers, remove_answers
from rtd_plugin.generation.llm.server import Server
from rtd_plugin.generation.llm.wordings import build_messages, parse_wordings
from rtd_plugin.progress import Advance, ignore_progress
from rtd_plugin.regular_files import resolve_links
from rtd_plugin.triplets.checks import check_records, hash_triplet
from rtd_plugin.triplets.records import Column, read_records
from rtd_plugin.triplets.triplet import Triplet
from rtd_plugin.triplets.triplet_file import open_writer


@dataclass
class Paraphrased:
    """The result of a run.

    Attributes:
        triplets: usable triplets read; those with a problem that `triplets check` reports are left out.
        left_out: records left out.
        done: triplets whose condition has been reworded, in this or an earlier run.
        left: triplets without an answer because the limit was reached.
        requests: requests sent by this run, retries included.
        rubbish: answers that are not wordings.
        refused: wordings that fail a check.
        wordings: new wordings written, beside the triplets' own conditions.
    """

    triplets: int = 0
    left_out: int = 0
    done: int = 0
    left: int = 0
    requests: int = 0
    rubbish: int = 0
    refused: int = 0
    wordings: int = 0


def paraphrase(
    file: Path,
    columns: Sequence[Column],
    output: Path,
    server: Server,
    *,
    count: int = 3,
    limit: int = 1000,
    workers: int = 4,
    seed: int = 0,
    advance: Advance = ignore_progress,
) -> Paraphrased:
    """Ask a server for other wordings of each condition, and write them as further triplets.

    The output has each triplet, followed by one record for each other wording, with the same captions. Answers are kept
    beside it (`OUTPUT.answers`) until all conditions have one, so a run that stopped can be resumed.

    Args:
        file: JSON in any shape of the source `json`, CSV or Parquet.
        columns: of reference, condition and target.
        output: the file to write.
        count: wordings of a condition to ask for.
        limit: requests to send at most, retries included.
        workers: concurrent requests.
        seed: sent with each request, for servers that use one.
        advance: called with the conditions answered and read.

    Raises:
        UsageError: the output is the file itself.
        RTDError: the file cannot be read or has no usable triplet, the server does not answer, or a file cannot be
            written.
    """
    if resolve_links(output) == resolve_links(file):
        raise UsageError(f"--output {output}: is the file that is read; write to another")
    result = Paraphrased()

    def list_questions() -> Iterator[Question]:
        for triplet in _read(file, columns, result):
            yield Question(
                "\0".join(triplet),
                partial(build_messages, triplet, count),
                partial(parse_wordings, triplet, count=count),
            )

    with AnswerFile(find_answers(output)) as answers:
        asked = ask_all(
            server,
            list_questions(),
            answers,
            limit=limit,
            workers=workers,
            seed=seed,
            advance=advance,
            noun="conditions",
        )
    if not asked.questions:
        raise RTDError(f"{file} has no usable triplet; `rtd-plugin triplets check` lists what is wrong")
    result.triplets, result.done, result.left = asked.questions, len(answers), asked.left
    result.requests, result.rubbish, result.refused = asked.requests, asked.rubbish, asked.refused
    seen: set[bytes] = set()
    with open_writer(output) as write:
        for triplet in _read(file, columns, Paraphrased()):
            own = [triplet, *(triplet._replace(condition=text) for (text,) in answers.get("\0".join(triplet)))]
            new = [each for each in own if hash_triplet(each) not in seen]
            seen.update(map(hash_triplet, new))
            for each in new:
                write(each)
            result.wordings += len(new) - (triplet in new)
    if not result.left:
        remove_answers(answers)
    return result


def _read(file: Path, columns: Sequence[Column], result: Paraphrased) -> Iterator[Triplet]:
    """Yield the triplets without a problem; count the other records in `result`."""
    for record in check_records(read_records(file, columns), columns):
        if record.triplet is None or record.problems:
            result.left_out += 1
        else:
            yield record.triplet

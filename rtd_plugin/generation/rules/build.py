"""Build triplets from many captions by rules: in parallel, in chunks that a resumed build does not repeat."""

import hashlib
import json
import logging
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from rtd_plugin.errors import RTDError
from rtd_plugin.files import write_atomically, write_text
from rtd_plugin.generation.captions import Caption, hash_captions, read_captions, split_captions
from rtd_plugin.generation.rules.balance import Balance
from rtd_plugin.generation.rules.edits import Candidate, make_candidates
from rtd_plugin.generation.rules.lexicon import Counts, Lexicon, count_words
from rtd_plugin.generation.rules.parsing import load_parser, pack, parse, unpack
from rtd_plugin.phrasing.registers import RegisterName
from rtd_plugin.progress import Advance, ignore_progress
from rtd_plugin.ray_tasks import RayTasks
from rtd_plugin.regular_files import read_bytes, read_text
from rtd_plugin.triplets.checks import hash_triplet
from rtd_plugin.triplets.parallel import map_in_order
from rtd_plugin.triplets.records import Fault
from rtd_plugin.triplets.triplet_file import open_writer
from rtd_plugin.triplets.wording import Order

if TYPE_CHECKING:
    from rtd_plugin.generation.similarity import Embedding

_log = logging.getLogger(__name__)

CHUNK = 2000  # captions parsed, and edited, at once
CANDIDATES = 3  # made for each triplet of a caption; the balance of kinds of edit chooses
FORMAT = 4  # of the chunks that a stopped build leaves; increase it when the rules change

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass
class RuleBuild:
    """The result of a build.

    Attributes:
        captions, skipped: captions that were used, and that could not be.
        first_fault: why the first skipped caption could not be used; "" without one.
        triplets: triplets written.
        edits: triplets with each kind of edit, a key of `targets`.
        targets: the share of each kind that the build aimed at, in percent.
        without_partner: the nouns that could be exchanged but had no substitute, the most frequent first.
    """

    captions: int = 0
    skipped: int = 0
    first_fault: str = ""
    triplets: int = 0
    edits: Counter[str] = field(default_factory=Counter)
    targets: Mapping[str, int] = field(default_factory=dict)
    without_partner: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values, with the share that each kind of edit has and should have in percent."""
        total = max(1, self.edits.total())
        shares = {kind: round(100 * self.edits[kind] / total, 1) for kind in self.targets}
        values = {name: value for name, value in vars(self).items() if name != "targets"}
        return {**values, "edits": dict(self.edits), "share_percent": shares, "target_percent": dict(self.targets)}


class ParseJob(NamedTuple):
    """A chunk of captions to parse; its parse is kept as `folder/key.spacy`."""

    folder: Path
    key: str
    captions: list[Caption]


class EditJob(NamedTuple):
    """A parsed chunk to make triplets of; they are kept as `folder/key-options.jsonl`."""

    folder: Path
    chunk: int
    key: str
    options: str
    per_caption: int
    seed: int
    register: RegisterName


def build(
    captions: Path,
    output: Path,
    *,
    column: str | None = None,
    per_caption: int = 5,
    wordings: int = 1,
    seed: int = 0,
    workers: int = 1,
    register: RegisterName = "mixed",
    embed: "Embedding | None" = None,
    cluster: RayTasks | None = None,
    advance: Advance = ignore_progress,
) -> RuleBuild:
    """Build triplets from captions by rules, and write them as JSON lines that the source `json` reads.

    The result depends on the captions, the seed and the options, not on the number of processes. Finished chunks are
    kept in a folder (`OUTPUT.parts`) until the output is written; the next build with the same captions and options
    uses them.

    Args:
        captions, column: as `read_captions` takes them.
        output: the file to write.
        per_caption: requests (pairs of a reference and a target caption) made of one caption, at most.
        wordings: triplets of one request, each with another condition, at most.
        seed: of all random choices.
        workers: number of processes.
        register: how the conditions are written, a key of `REGISTERS`.
        cluster: whose machines do the work instead; they have to see the output's folder.
        embed: maps words to vectors whose cosine is their similarity; None compares the contexts of words.
        advance: called with the chunks done and their total, 0 while captions are parsed.

    Raises:
        RTDError: the captions cannot be read or give no triplet, the parser is missing, or the output cannot be
            written.
    """
    load_parser()  # fail early: before any file is written
    folder = output.with_name(f"{output.name}.parts")
    result = RuleBuild()
    with _Workers(workers) if cluster is None else _RayWorkers(cluster) as pool:
        usable = _skip_faults(read_captions(captions, column), result)
        keys: list[str] = []
        counts = Counts()
        jobs = _list_parse_jobs(folder, split_captions(usable, CHUNK), keys)
        for done, chunk_counts in enumerate(pool.map(_parse_chunk, jobs), 1):
            counts.add(chunk_counts)
            advance(result.captions, 0, f"parsed {done} parts")
        if not keys:
            skipped = f" ({result.skipped:,} unusable, the first: {result.first_fault})" if result.skipped else ""
            raise RTDError(f"{captions} holds no captions{skipped}; name a file that has some")
        lexicon = Lexicon(counts, embed)
        space = embed.name if embed is not None else ""
        options = hashlib.sha256(json.dumps([FORMAT, keys, per_caption, seed, space, register]).encode()).hexdigest()[
            :16
        ]
        pool.share(lexicon)
        edit_jobs = (
            EditJob(folder, chunk, key, options, per_caption, seed, register) for chunk, key in enumerate(keys)
        )
        seen: set[bytes] = set()
        balance = Balance(register, wordings)
        partners: Counter[tuple[str, bool]] = Counter()
        with open_writer(output) as write:
            for done, path in enumerate(pool.map(_edit_chunk, edit_jobs), 1):
                nouns, *captions_candidates = map(json.loads, read_text(path).splitlines())
                partners.update({(noun, has_partner): count for noun, has_partner, count in nouns})
                for rows in captions_candidates:
                    for triplet in balance.choose(list(_list_new(map(Candidate._make, rows), seen)), per_caption):
                        seen.add(hash_triplet(triplet))
                        write(triplet)
                advance(done, len(keys), f"{len(seen):,} triplets")
            result.edits, result.targets = balance.edits, balance.targets
            lonely = [noun for noun, has_partner in partners if not has_partner and not partners[noun, True]]
            result.without_partner = sorted(lonely, key=lambda noun: (-partners[noun, False], noun))
            result.triplets = len(seen)
            if not seen:
                raise RTDError(
                    f"{captions}: none of {result.captions:,} captions could be edited; pass more captions, in English"
                )
    _remove_parts(folder)
    return result


def _remove_parts(folder: Path) -> None:
    """Remove the parts of a finished build."""
    try:
        shutil.rmtree(folder)
    except OSError as error:  # the output is written, and another build removes them
        _log.warning("%s: cannot be removed (%s), and is not needed any more", folder, error.strerror)


def _list_new(candidates: Iterable[Candidate], seen: Collection[bytes]) -> Iterator[Candidate]:
    """Yield candidates with those of their wordings that make distinct triplets that are not among `seen`."""
    for candidate in candidates:
        wordings: dict[bytes, tuple[str, Order]] = {}
        for text, order in candidate.wordings:
            wordings.setdefault(hash_triplet((candidate.reference, text, candidate.target)), (text, order))
        if new := [wording for key, wording in wordings.items() if key not in seen]:
            yield candidate._replace(wordings=new)


def _skip_faults(captions: Iterable[Caption | Fault], result: RuleBuild) -> Iterator[Caption]:
    """Yield the usable captions; count them and the others in `result`."""
    for caption in captions:
        if isinstance(caption, Fault):
            result.skipped += 1
            result.first_fault = result.first_fault or str(caption)
        else:
            result.captions += 1
            yield caption


def _list_parse_jobs(folder: Path, chunks: Iterable[list[Caption]], keys: list[str]) -> Iterator[ParseJob]:
    """Yield a job for each chunk; append its key to `keys`."""
    for index, chunk in enumerate(chunks):
        keys.append(f"{index:06d}-{hash_captions(chunk)[:16]}")
        yield ParseJob(folder, keys[-1], chunk)


class _Workers(ExitStack):
    """Processes that work on jobs in order; one worker is this process itself."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self._count = count
        self._pool = self._start(None) if count > 1 else None

    def _start(self, lexicon: Lexicon | None) -> ProcessPoolExecutor:
        return self.enter_context(
            ProcessPoolExecutor(self._count, get_context("spawn"), initializer=_set_up_worker, initargs=(lexicon,))
        )

    def share(self, lexicon: Lexicon) -> None:
        """Give all workers the lexicon."""
        if self._pool is None:
            _set_up_worker(lexicon)
        else:
            self._pool.shutdown()
            self._pool = self._start(lexicon)

    def map(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Yield a function's results in the order of the jobs."""
        if self._pool is None:
            yield from map(function, jobs)
            return
        try:
            yield from map_in_order(self._pool, function, jobs, ahead=2 * self._count)
        except BrokenProcessPool as error:
            raise RTDError(
                "a worker process was killed, probably because memory ran out: use fewer --workers; "
                "finished chunks are kept"
            ) from error


class _RayWorkers(_Workers):
    """The machines of a Ray cluster."""

    def __init__(self, cluster: RayTasks) -> None:
        super().__init__(1)
        self._cluster = cluster
        self._lexicon: Lexicon | None = None

    def share(self, lexicon: Lexicon) -> None:
        self._lexicon = lexicon

    def map(self, function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        yield from self._cluster.map(_run_on_cluster, jobs, (function, self._lexicon))


def _run_on_cluster(shared: tuple[Callable[[Job], Result], Lexicon | None], job: Job) -> Result:
    function, lexicon = shared
    _set_up_worker(lexicon)
    return function(job)


_lexicon: Lexicon | None = None


def _set_up_worker(lexicon: Lexicon | None) -> None:
    global _lexicon
    _lexicon = lexicon
    os.environ["OMP_NUM_THREADS"] = "1"  # the processes run in parallel, so their libraries need no threads


def _parse_chunk(job: ParseJob) -> Counts:
    """Parse a chunk, or read the parse that a stopped build left, and count its words."""
    path = job.folder / f"{job.key}.spacy"
    if path.is_file():
        docs = unpack(read_bytes(path))
    else:
        docs = parse(caption.text for caption in job.captions)
        with write_atomically(path) as draft:
            draft.write_bytes(pack(docs))
    return count_words(docs, [caption.image for caption in job.captions])


def _edit_chunk(job: EditJob) -> Path:
    """Write a chunk's nouns, and each caption's candidates in a line, unless a stopped build has written them."""
    path = job.folder / f"{job.key}-{job.options}.jsonl"
    if not path.is_file():
        assert _lexicon is not None
        docs = unpack(read_bytes(job.folder / f"{job.key}.spacy"))
        partners: Counter[tuple[str, bool]] = Counter()
        rows: list[Any] = []
        for row, doc in enumerate(docs):
            rng = random.Random(f"{job.seed} {job.chunk} {row}")
            rows.append(make_candidates(doc, _lexicon, rng, CANDIDATES * job.per_caption, partners, job.register))
        nouns = [(noun, has_partner, count) for (noun, has_partner), count in partners.items()]
        write_text(path, "".join(json.dumps(row) + "\n" for row in (nouns, *filter(None, rows))))
    return path

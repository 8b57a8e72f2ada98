"""Triplets of many captions: in parallel, in parts that a stopped run does not make twice."""

import hashlib
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rtd_plugin.errors import RTDError
from rtd_plugin.files import write_atomically, write_text
from rtd_plugin.generation.captions import Caption, digest, parts, read_captions
from rtd_plugin.generation.rules.edits import edits
from rtd_plugin.generation.rules.lexicon import Counts, Embed, Lexicon, count
from rtd_plugin.generation.rules.parsing import load_parser, pack, parse, unpack
from rtd_plugin.generation.rules.scene import Edit, render
from rtd_plugin.generation.rules.wording import condition
from rtd_plugin.triplets.checks import mark_of, problems_of
from rtd_plugin.triplets.parallel import in_order
from rtd_plugin.triplets.records import Fault
from rtd_plugin.triplets.triplet import Triplet

PART = 2000  # captions that are parsed, and edited, at once
FORMAT = 1  # of the parts that a stopped run leaves: other code, other number
# How often each kind is tried; what people ask for in CIRR is mostly other things and other looks.
WEIGHTS = {
    "noun": 30, "attribute": 16, "describe": 10, "number": 10, "place": 12, "locate": 7, "action": 8, "remove": 12,
    "add": 8,
}  # fmt: skip
MOST_OF_A_KIND = 3  # edits of a caption
TWO_EDITS = 0.45  # of the triplets differ in two things
Progress = Callable[[int, int, str], None]


@dataclass
class Built:
    """What a build made.

    Attributes:
        captions, skipped: how many were read, and could not be used; first_fault: why the first could not.
        triplets: how many were written.
        kinds: how many edits of each kind.
        band: cosines between which two things are similar but not the same.
    """

    captions: int = 0
    skipped: int = 0
    first_fault: str = ""
    triplets: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    band: tuple[float, float] = (0.0, 0.0)


def build(
    captions: Path,
    output: Path,
    *,
    column: str | None = None,
    per_caption: int = 5,
    seed: int = 0,
    workers: int = 1,
    embed: Embed | None = None,
    backbone: str = "",
    progress: Progress = lambda done, total, note: None,
) -> Built:
    """Make triplets of captions by rule, as JSON lines that any source `json` reads.

    The result depends on the captions, the seed and the options, not on the number of processes. Until it is written,
    finished parts are kept in a folder beside it (`OUTPUT.parts`), and taken up by the next build with the same
    captions and options.

    Args:
        captions, column: as `read_captions` takes them.
        output: the file to write.
        per_caption: triplets of one caption, at most.
        seed: of all choices.
        workers: processes.
        embed: words to vectors whose cosine says how similar things are; None compares the company they keep.
        backbone: a name for `embed`: other backbones, other parts.

    Raises:
        RTDError: the captions cannot be read or give no triplet, the parser is missing, or the result cannot be
            written.
    """
    load_parser()  # before anything is written
    folder = output.with_name(f"{output.name}.parts")
    built = Built()
    with _Workers(workers) as pool:
        texts = _usable(read_captions(captions, column), built)
        keys: list[str] = []
        counts = Counts()
        jobs = _noted(((folder, number, part) for number, part in enumerate(parts(texts, PART))), keys)
        for number, counted in enumerate(pool.map(_parse_part, jobs), 1):
            counts.add(counted)
            progress(built.captions, 0, f"parsed {number} parts")
        if not keys:
            raise RTDError(f"{captions} holds no captions{_because(built)}; name a file that has some")
        lexicon = Lexicon(counts, embed)
        built.band = lexicon.things.band
        options = hashlib.sha256(json.dumps([FORMAT, keys, per_caption, seed, backbone]).encode()).hexdigest()[:16]
        pool.share(lexicon)
        edited = ((folder, number, key, options, per_caption, seed) for number, key in enumerate(keys))
        seen: set[bytes] = set()
        with write_atomically(output) as draft, draft.open("w", encoding="utf-8") as file:
            for number, path in enumerate(pool.map(_edit_part, edited), 1):
                for line in path.read_text(encoding="utf-8").splitlines():
                    *triplet, kinds = json.loads(line)
                    mark = mark_of(triplet)
                    if mark not in seen:
                        seen.add(mark)
                        built.kinds.update(kinds)
                        file.write(json.dumps(dict(zip(_KEYS, triplet, strict=True)), ensure_ascii=False) + "\n")
                progress(number, len(keys), f"{len(seen):,} triplets")
            built.triplets = len(seen)
            if not seen:
                raise RTDError(
                    f"{captions}: none of {built.captions:,} captions could be edited; give it more, in English"
                )
    shutil.rmtree(folder, ignore_errors=True)
    return built


_KEYS = ("reference_caption", "conditioning_caption", "target_caption")


def _because(built: Built) -> str:
    return f" ({built.skipped:,} unusable, the first: {built.first_fault})" if built.skipped else ""


def _usable(captions: Iterable[Caption | Fault], built: Built) -> Iterator[Caption]:
    for caption in captions:
        if isinstance(caption, Fault):
            built.skipped += 1
            built.first_fault = built.first_fault or str(caption)
        else:
            built.captions += 1
            yield caption


def _noted(
    jobs: Iterable[tuple[Path, int, list[Caption]]], keys: list[str]
) -> Iterator[tuple[Path, str, list[Caption]]]:
    for folder, number, part in jobs:
        keys.append(f"{number:06d}-{digest(part)[:16]}")
        yield folder, keys[-1], part


class _Workers(ExitStack):
    """Processes that work through jobs in order, a few ahead of what is taken; none where one worker is enough."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number
        self._pool = self._start() if number > 1 else None

    def _start(self, *shared: Any) -> ProcessPoolExecutor:
        return self.enter_context(
            ProcessPoolExecutor(self._number, get_context("spawn"), initializer=_begin, initargs=shared)
        )

    def share(self, lexicon: Lexicon) -> None:
        """Give all workers the lexicon."""
        if self._pool is None:
            _begin(lexicon)
        else:
            self._pool.shutdown()
            self._pool = self._start(lexicon)

    def map(self, function: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterator[Any]:
        if self._pool is None:
            yield from map(function, jobs)
            return
        try:
            yield from in_order(self._pool, function, jobs, ahead=2 * self._number)
        except BrokenProcessPool as error:
            raise RTDError(
                "a worker process was killed, most likely for want of memory: use fewer --workers; "
                "the finished parts are kept"
            ) from error


_lexicon: Lexicon | None = None


def _begin(lexicon: Lexicon | None = None) -> None:
    global _lexicon
    _lexicon = lexicon
    os.environ["OMP_NUM_THREADS"] = "1"  # processes are the parallelism here


def _parse_part(job: tuple[Path, str, list[Caption]]) -> Counts:
    """Parse a part, or take it as a stopped build left it, and count what is in it."""
    folder, key, part = job
    file = folder / f"{key}.spacy"
    docs = None
    if file.is_file():
        docs = unpack(file.read_bytes())
    if docs is None:
        docs = parse(caption.text for caption in part)
        with write_atomically(file) as draft:
            draft.write_bytes(pack(docs))
    return count(docs, [caption.image for caption in part])


def _edit_part(job: tuple[Path, int, str, str, int, int]) -> Path:
    """Make a part's triplets, unless a stopped build has."""
    folder, number, key, options, per_caption, seed = job
    path = folder / f"{key}-{options}.jsonl"
    if not path.is_file():
        docs = unpack((folder / f"{key}.spacy").read_bytes())
        made = (
            (*triplet, kinds)
            for row, doc in enumerate(docs)
            for triplet, kinds in triplets_of(doc, _lexicon, random.Random(f"{seed} {number} {row}"), per_caption)
        )
        write_text(path, "".join(json.dumps(row) + "\n" for row in made))
    return path


def triplets_of(doc, lexicon: Lexicon, rng: random.Random, most: int) -> list[tuple[Triplet, list[str]]]:
    """Triplets of one parsed caption, different ones, each with the kinds of its edits."""
    by_kind: dict[str, list[Edit]] = {}
    for edit in edits(doc, lexicon, rng):
        by_kind.setdefault(edit.kind, []).append(edit)
    found: dict[str, tuple[Triplet, list[str]]] = {}
    by_kind = {kind: rng.sample(some, min(len(some), MOST_OF_A_KIND)) for kind, some in by_kind.items()}
    while by_kind and len(found) < most:
        kinds = sorted(by_kind)
        kind = rng.choices(kinds, [WEIGHTS[kind] for kind in kinds])[0]
        edit = by_kind[kind].pop(rng.randrange(len(by_kind[kind])))
        if not by_kind[kind]:
            del by_kind[kind]
        chosen = [edit]
        if rng.random() < TWO_EDITS:
            others = [other for other in chain.from_iterable(by_kind.values()) if not other.anchors & edit.anchors]
            chosen += [rng.choice(others)] if others else []
        triplet = _triplet(doc, chosen, rng)
        if triplet is not None:
            found.setdefault(triplet.target + "\0" + triplet.reference, (triplet, [edit.kind for edit in chosen]))
    return list(found.values())


def _triplet(doc, chosen: list[Edit], rng: random.Random) -> Triplet | None:
    reference = render(doc, [change for edit in chosen for change in edit.reference])
    target = render(doc, [change for edit in chosen for change in edit.target])
    for _ in range(5):  # another phrasing, where one says all that the target says
        triplet = Triplet(reference, condition(chosen, rng), target)
        if not problems_of(triplet):
            return triplet
    return None

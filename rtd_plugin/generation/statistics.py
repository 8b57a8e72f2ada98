"""What a set of triplets is like, and how far its conditions are from those that people wrote."""

import difflib
import itertools
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rtd_plugin.errors import RTDError
from rtd_plugin.triplets.records import Fault, lines, records, text_fault
from rtd_plugin.triplets.triplet import Triplet

WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
# Where benchmarks keep their conditions: CIRR and FashionIQ, CIRCO, GeneCIS; and the triplet files of json sources.
CONDITION_KEYS = ("caption", "captions", "relative_caption", "condition", "conditioning_caption", "edit")
MOST = 25  # rows of each table
NEAREST = 200  # conditions that are looked up among the real ones
MOST_COMPARED = 20_000  # real conditions that are looked among


def words(text: str) -> list[str]:
    """A text's words in lower case."""
    return WORD.findall(text.lower())


def read_conditions(path: Path) -> list[str]:
    """Conditions that people wrote: an annotation file of CIRR, CIRCO, FashionIQ or GeneCIS, or text, one a line.

    Raises:
        RTDError: the file cannot be read or holds none.
    """
    found: list[str] = []
    if path.suffix.lower() in (".json", ".jsonl"):
        for _, record in records(path, [(key,) for key in CONDITION_KEYS]):
            if isinstance(record, dict):
                value = next((record[key] for key in CONDITION_KEYS if key in record), None)
                found += value if isinstance(value, list) else [value]
    else:
        try:
            with path.open("rb") as file:
                found += [line.decode("utf-8", "replace") for _, line in lines(file) if not isinstance(line, Fault)]
        except OSError as error:
            raise RTDError(f"cannot read {path}: {error.strerror or error}; check the path") from error
    conditions = [text for text in found if not text_fault(text)]
    if not conditions:
        raise RTDError(f"{path} holds no conditions (under {', '.join(CONDITION_KEYS)}); name another file")
    return conditions


def statistics(triplets: Iterable[Triplet], real: Mapping[str, Sequence[str]], seed: int = 0) -> dict[str, Any]:
    """Figures about triplets, as plain values.

    Args:
        triplets: read once.
        real: conditions that people wrote, by the name of where they are from.
        seed: of the sample whose nearest real conditions are looked up.
    """
    from rtd_plugin.clip.tokens import clean_caption, encode_text

    lengths: dict[str, Counter[int]] = {name: Counter() for name in (*Triplet._fields, "condition_words")}
    openings: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    vocabulary: Counter[str] = Counter()
    edits: Counter[tuple[str, str]] = Counter()
    distinct: dict[str, set[int]] = {name: set() for name in Triplet._fields}
    sample: list[str] = []
    rng = random.Random(seed)
    cache: dict[str, int] = {}
    count = 0
    for count, triplet in enumerate(triplets, 1):
        for name, text in zip(Triplet._fields, triplet, strict=True):
            distinct[name].add(hash(text))
            if text not in cache:
                if len(cache) > 50_000:
                    cache.clear()
                cache[text] = len(encode_text(clean_caption(text))) + 2
            lengths[name][cache[text]] += 1
        spoken = words(triplet.condition)
        lengths["condition_words"][len(spoken)] += 1
        vocabulary.update(spoken)
        openings[0][" ".join(spoken[:1])] += 1
        openings[1][" ".join(spoken[:2])] += 1
        edits.update(changes(triplet.reference, triplet.target))
        if len(sample) < NEAREST:
            sample.append(triplet.condition)
        elif (place := rng.randrange(count)) < NEAREST:
            sample[place] = triplet.condition
    mine = {"length": lengths["condition_words"], "openings": openings[0], "vocabulary": vocabulary}
    return {
        "triplets": count,
        "distinct": {name: len(marks) for name, marks in distinct.items()},
        "tokens": {name: dict(sorted(lengths[name].items())) for name in Triplet._fields},
        "condition_words": dict(sorted(lengths["condition_words"].items())),
        "vocabulary": len(vocabulary),
        "openings": [{"words": text, "count": number} for text, number in openings[0].most_common(MOST)],
        "openings_of_two": [{"words": text, "count": number} for text, number in openings[1].most_common(MOST)],
        "edits": [{"from": a, "to": b, "count": number} for (a, b), number in edits.most_common(MOST)],
        "real": {name: distance(mine, conditions) for name, conditions in real.items()},
        "nearest": nearest(sample, [text for conditions in real.values() for text in conditions], rng),
    }


def changes(reference: str, target: str) -> list[tuple[str, str]]:
    """Runs of words that differ between two captions; "" where words were only added or removed."""
    one, other = words(reference), words(target)
    blocks = difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes()
    return [(" ".join(one[a:b]), " ".join(other[c:d])) for kind, a, b, c, d in blocks if kind != "equal"]


def profile(conditions: Iterable[str]) -> dict[str, Counter[Any]]:
    """Counts of lengths in words, first words, and words."""
    spoken = [words(text) for text in conditions]
    return {
        "length": Counter(map(len, spoken)),
        "openings": Counter(" ".join(text[:1]) for text in spoken),
        "vocabulary": Counter(word for text in spoken for word in text),
    }


def distance(mine: Mapping[str, Counter[Any]], conditions: Sequence[str]) -> dict[str, float]:
    """How far conditions are from real ones.

    Returns:
        The Jensen–Shannon divergence in bits (0 alike, 1 nothing in common) of lengths in words, first words and words;
        the mean lengths; the share of the real ones' word occurrences whose word is known here.
    """
    theirs = profile(conditions)
    known = sum(number for word, number in theirs["vocabulary"].items() if word in mine["vocabulary"])
    return {
        **{name: round(divergence(mine[name], theirs[name]), 3) for name in ("length", "openings", "vocabulary")},
        "mean_words": round(mean(mine["length"]), 1),
        "mean_words_real": round(mean(theirs["length"]), 1),
        "words_known": round(known / max(1, sum(theirs["vocabulary"].values())), 3),
        "conditions": len(conditions),
    }


def mean(counts: Counter[int]) -> float:
    """The mean of counted numbers."""
    return sum(value * number for value, number in counts.items()) / max(1, sum(counts.values()))


def divergence(one: Counter[Any], other: Counter[Any]) -> float:
    """Jensen–Shannon divergence of two counts, in bits (Lin 1991, eq. 4.1, with equal weights)."""
    totals = (sum(one.values()), sum(other.values()))
    if not all(totals):
        return 1.0 if any(totals) else 0.0
    result = 0.0
    for value in sorted({*one, *other}, key=repr):
        p, q = one[value] / totals[0], other[value] / totals[1]
        for share in (p, q):
            if share:
                result += share / 2 * math.log2(2 * share / (p + q))
    return result


def nearest(conditions: Sequence[str], real: Sequence[str], rng: random.Random) -> list[dict[str, Any]]:
    """For each condition the real one that shares most with it: the cosine of weighted words and pairs of words."""
    if not real:
        return []
    real = rng.sample(list(real), min(len(real), MOST_COMPARED))
    spread: Counter[str] = Counter(term for text in real for term in set(_terms(text)))
    weight = {term: math.log(1 + len(real) / number) for term, number in spread.items()}
    index: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for number, text in enumerate(real):
        for term, value in _unit(text, weight).items():
            index[term].append((number, value))
    found = []
    for text in conditions:
        scores: Counter[int] = Counter()
        for term, value in _unit(text, weight).items():
            for number, other in index.get(term, ()):
                scores[number] += value * other
        if scores:
            number, score = max(scores.items(), key=lambda item: item[1])
            found.append({"condition": text, "real": real[number], "similarity": round(score, 3)})
    return sorted(found, key=lambda row: -row["similarity"])


def _terms(text: str) -> list[str]:
    spoken = words(text)
    return spoken + [" ".join(pair) for pair in itertools.pairwise(spoken)]


def _unit(text: str, weight: Mapping[str, float]) -> dict[str, float]:
    unknown = max(weight.values(), default=1.0)
    values = {term: weight.get(term, unknown) for term in _terms(text)}
    norm = math.sqrt(sum(value * value for value in values.values()))
    return {term: value / norm for term, value in values.items()} if norm else {}

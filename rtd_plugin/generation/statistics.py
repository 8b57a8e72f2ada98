"""Statistics of triplets, and the distance of their conditions from conditions that people wrote."""

import difflib
import itertools
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rtd_plugin.errors import RTDError
from rtd_plugin.regular_files import open_regular
from rtd_plugin.triplets.records import Fault, find_fault, read_lines, read_records
from rtd_plugin.triplets.triplet import Triplet
from rtd_plugin.triplets.triplet_file import JSON_COLUMNS
from rtd_plugin.triplets.wording import split_words

# The keys of conditions in CIRR and FashionIQ, CIRCO, GeneCIS, and in triplet files.
CONDITION_KEYS = ("caption", "captions", "relative_caption", "condition", *JSON_COLUMNS[1])
TABLE_ROWS = 25
SAMPLE = 200  # conditions whose nearest real one is found
MAX_REAL = 20_000  # real conditions that are searched


def read_conditions(path: Path) -> list[str]:
    """Read conditions that people wrote.

    Args:
        path: an annotation file of CIRR, CIRCO, FashionIQ or GeneCIS, or text with a condition a line.

    Raises:
        RTDError: the file cannot be read or holds no conditions.
    """
    texts: list[object] = []
    if path.suffix.lower() in (".json", ".jsonl"):
        for _, record in read_records(path, [(key,) for key in CONDITION_KEYS]):
            if isinstance(record, dict):
                value = next((record[key] for key in CONDITION_KEYS if key in record), None)
                texts += value if isinstance(value, list) else [value]
    else:
        try:
            with open_regular(path) as file:
                texts += [
                    line.decode("utf-8", "replace") for _, line in read_lines(file) if not isinstance(line, Fault)
                ]
        except OSError as error:
            raise RTDError(f"cannot read {path}: {error.strerror or error}; check the path") from error
    conditions = [text for text in texts if isinstance(text, str) and not find_fault(text)]
    if not conditions:
        raise RTDError(f"{path} holds no conditions (under {', '.join(CONDITION_KEYS)}); name another file")
    return conditions


def compute_statistics(triplets: Iterable[Triplet], real: Mapping[str, Sequence[str]], seed: int = 0) -> dict[str, Any]:
    """Compute statistics of triplets, as plain values.

    Args:
        triplets: iterated once.
        real: conditions that people wrote, by the name of their file.
        seed: of the sample whose nearest real conditions are found.
    """
    from rtd_plugin.clip.tokens import clean_caption, encode_text

    lengths: dict[str, Counter[int]] = {name: Counter() for name in (*Triplet._fields, "condition_words")}
    openings: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    vocabulary: Counter[str] = Counter()
    edits: Counter[tuple[str, str]] = Counter()
    distinct: dict[str, set[int]] = {name: set() for name in Triplet._fields}
    sample: list[str] = []
    rng = random.Random(seed)
    token_counts: dict[str, int] = {}
    count = 0
    for count, triplet in enumerate(triplets, 1):
        for name, text in zip(Triplet._fields, triplet, strict=True):
            distinct[name].add(hash(text))
            if text not in token_counts:
                if len(token_counts) > 50_000:
                    token_counts.clear()
                token_counts[text] = len(encode_text(clean_caption(text))) + 2
            lengths[name][token_counts[text]] += 1
        words = split_words(triplet.condition)
        lengths["condition_words"][len(words)] += 1
        vocabulary.update(words)
        openings[0][" ".join(words[:1])] += 1
        openings[1][" ".join(words[:2])] += 1
        edits.update(find_changes(triplet.reference, triplet.target))
        if len(sample) < SAMPLE:
            sample.append(triplet.condition)
        elif (index := rng.randrange(count)) < SAMPLE:
            sample[index] = triplet.condition
    profile = Profile(lengths["condition_words"], openings[0], vocabulary)
    return {
        "triplets": count,
        "distinct": {name: len(hashes) for name, hashes in distinct.items()},
        "tokens": {name: dict(sorted(lengths[name].items())) for name in Triplet._fields},
        "condition_words": dict(sorted(lengths["condition_words"].items())),
        "vocabulary": len(vocabulary),
        "openings": [{"words": text, "count": count} for text, count in openings[0].most_common(TABLE_ROWS)],
        "openings_of_two": [{"words": text, "count": count} for text, count in openings[1].most_common(TABLE_ROWS)],
        "edits": [{"from": old, "to": new, "count": count} for (old, new), count in edits.most_common(TABLE_ROWS)],
        "real": {name: measure_distance(profile, conditions) for name, conditions in real.items()},
        "nearest": find_nearest(sample, [text for conditions in real.values() for text in conditions], rng),
    }


class Profile(NamedTuple):
    """Counts over conditions.

    Attributes:
        length: conditions by their number of words.
        openings: conditions by their first word.
        vocabulary: occurrences of each word.
    """

    length: Counter[int]
    openings: Counter[str]
    vocabulary: Counter[str]


def find_changes(reference: str, target: str) -> list[tuple[str, str]]:
    """Return the runs of words that differ between two captions; "" on one side of an insertion or deletion."""
    old, new = split_words(reference), split_words(target)
    blocks = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return [(" ".join(old[a:b]), " ".join(new[c:d])) for operation, a, b, c, d in blocks if operation != "equal"]


def compute_profile(conditions: Iterable[str]) -> Profile:
    """Count the lengths, first words and words of conditions."""
    words = [split_words(text) for text in conditions]
    return Profile(
        Counter(map(len, words)),
        Counter(" ".join(text[:1]) for text in words),
        Counter(word for text in words for word in text),
    )


def measure_distance(profile: Profile, conditions: Sequence[str]) -> dict[str, float]:
    """Measure how far the conditions of a profile are from real ones.

    Returns:
        The Jensen–Shannon divergence in bits (0 to 1) of lengths in words, first words and words; the mean lengths; the
        share of words in the real conditions, with repetitions, that the profile has.
    """
    real = compute_profile(conditions)
    known = sum(count for word, count in real.vocabulary.items() if word in profile.vocabulary)
    return {
        "length": round(compute_divergence(profile.length, real.length), 3),
        "openings": round(compute_divergence(profile.openings, real.openings), 3),
        "vocabulary": round(compute_divergence(profile.vocabulary, real.vocabulary), 3),
        "mean_words": round(compute_mean(profile.length), 1),
        "mean_words_real": round(compute_mean(real.length), 1),
        "words_known": round(known / max(1, sum(real.vocabulary.values())), 3),
        "conditions": len(conditions),
    }


def compute_mean(counts: Counter[int]) -> float:
    """Return the mean of counted integers."""
    return sum(value * count for value, count in counts.items()) / max(1, sum(counts.values()))


def compute_divergence(first: Counter[Any], second: Counter[Any]) -> float:
    """Return the Jensen–Shannon divergence of two counts, in bits (Lin 1991, eq. 4.1, with equal weights)."""
    totals = (sum(first.values()), sum(second.values()))
    if not all(totals):
        return 1.0 if any(totals) else 0.0
    divergence = 0.0
    for value in sorted({*first, *second}, key=repr):
        p, q = first[value] / totals[0], second[value] / totals[1]
        for share in (p, q):
            if share:
                divergence += share / 2 * math.log2(2 * share / (p + q))
    return divergence


def find_nearest(conditions: Sequence[str], real: Sequence[str], rng: random.Random) -> list[dict[str, Any]]:
    """Find the real condition nearest to each condition, by the cosine of weighted words and pairs of words.

    Returns:
        The condition, the real one and their similarity, the most similar first.
    """
    if not real:
        return []
    real = rng.sample(list(real), min(len(real), MAX_REAL))
    frequencies: Counter[str] = Counter(term for text in real for term in set(_list_terms(text)))
    weights = {term: math.log(1 + len(real) / count) for term, count in frequencies.items()}
    index: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for row, text in enumerate(real):
        for term, weight in _weigh_terms(text, weights).items():
            index[term].append((row, weight))
    pairs = []
    for text in conditions:
        scores: dict[int, float] = defaultdict(float)
        for term, weight in _weigh_terms(text, weights).items():
            for row, real_weight in index.get(term, ()):
                scores[row] += weight * real_weight
        if scores:
            row, score = max(scores.items(), key=lambda item: item[1])
            pairs.append({"condition": text, "real": real[row], "similarity": round(score, 3)})
    return sorted(pairs, key=lambda pair: -pair["similarity"])


def _list_terms(text: str) -> list[str]:
    words = split_words(text)
    return [*words, *(" ".join(pair) for pair in itertools.pairwise(words))]


def _weigh_terms(text: str, weights: Mapping[str, float]) -> dict[str, float]:
    """Return the weight of each term of a text, of unit length; a term without a weight gets the largest."""
    unknown = max(weights.values(), default=1.0)
    terms = {term: weights.get(term, unknown) for term in _list_terms(text)}
    norm = math.sqrt(sum(weight * weight for weight in terms.values()))
    return {term: weight / norm for term, weight in terms.items()} if norm else {}

"""Write conditions that ask for edits, phrased as people do."""

import random
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from string import Formatter
from typing import NamedTuple

from rtd_plugin.generation.rules.phrasings import PATTERNS
from rtd_plugin.generation.rules.scene import Edit

# Which content a condition names first, old or new, and the relative frequencies where all fit. An encoder trained on a
# single order relies on it, and fails on the other.
ORDERS = {"old first": 36, "new first": 30, "one alone": 34}
_OLD = ("{the_old", "{a_old", "{old", "{doing_old", "{placed_old")
_NEW = ("{a_new", "{the_new", "{new", "{doing_new", "{placed_new", "{comparative")
MOODS = {"imperative": 35, "predicate": 30, "clause": 17, "noun": 18}  # and their relative frequencies where all fit
# Optional frames around a condition of each mood.
FRAMES = {
    "imperative": ("{}, the rest is the same", "{} and leave everything else", "keep the scene but {}", "{} this time"),
    "predicate": ("the target photo {}", "the target picture {}", "the target image {}", "the picture {}", "it {}"),
    "clause": ("in the target picture, {}", "the same scene, but {}", "the same, except {}"),
    "noun": ("{}",),
}
FRAMED = 0.12  # the share of conditions with a frame
SENTENCE_CASE, FULL_STOP = 0.7, 0.5  # shares, between CIRR's 0.88 and 0.61 and FashionIQ's 0.14 and 0.08
_IMPERATIVES = frozenset([
    "replace", "change", "turn", "swap", "exchange", "substitute", "show", "remove", "take",
    "put", "use", "have", "make", "focus", "delete", "get", "leave", "drop",
    "keep", "add", "include", "give", "increase", "reduce", "bring", "target", "i",
])  # fmt: skip
_PREDICATES = ("is", "has", "shows", "are", "wears")
_ALONE = ("same", "the same", "unlike", "different", "goes", "only", "no", "make it", "just", "i", "not", "instead")


def write_condition(edits: Sequence[Edit], rng: random.Random) -> str:
    """Write a condition that asks for one or two edits."""
    text = (
        _phrase_both(edits[0], edits[1], rng)
        if len(edits) == 2
        else _add_frame(_choose(_list_phrasings(edits[0]), rng), rng)
    )
    if rng.random() < SENTENCE_CASE:
        text = text[0].upper() + text[1:]
        if rng.random() < FULL_STOP / SENTENCE_CASE:
            text += "."
    return text


def find_mood(text: str) -> str:
    """Return the mood of a condition: a key of MOODS."""
    first, *following = text.split()
    if first in _IMPERATIVES:
        return "imperative"
    if first in _PREDICATES:
        return "predicate"
    return "clause" if {"is", "are"} & set(following) else "noun"


class Phrasing(NamedTuple):
    """A phrasing of an edit, with its mood and its order, keys of MOODS and ORDERS."""

    text: str
    mood: str
    order: str


def _list_phrasings(edit: Edit) -> list[Phrasing]:
    """Return all phrasings of an edit."""
    phrasings = []
    fields = dict(edit.fields)
    for pattern in PATTERNS[edit.kind]:
        if _parse_fields(pattern) <= edit.fields.keys():
            text = " ".join(pattern.format(**fields).split())
            phrasings.append(Phrasing(text, find_mood(text), find_order(pattern)))
    return phrasings


@cache
def find_order(pattern: str) -> str:
    """Return whether a pattern names the old value first, the new one, or one alone: a key of ORDERS."""
    old, new = (
        min((pattern.find(field) for field in fields if field in pattern), default=-1) for fields in (_OLD, _NEW)
    )
    if old < 0 or new < 0:
        return "one alone"
    return "old first" if old < new else "new first"


@cache
def _parse_fields(pattern: str) -> frozenset[str]:
    return frozenset(name for _, name, _, _ in Formatter().parse(pattern) if name)


def _draw(shares: Mapping[str, int], available: Collection[str], rng: random.Random) -> str:
    names = [name for name in shares if name in available]
    return rng.choices(names, [shares[name] for name in names])[0]


def _choose(phrasings: Sequence[Phrasing], rng: random.Random) -> Phrasing:
    """Choose the order, then the mood, then the words."""
    order = _draw(ORDERS, {phrasing.order for phrasing in phrasings}, rng)
    mood = _draw(MOODS, {phrasing.mood for phrasing in phrasings if phrasing.order == order}, rng)
    return rng.choice([phrasing for phrasing in phrasings if (phrasing.order, phrasing.mood) == (order, mood)])


def _add_frame(phrasing: Phrasing, rng: random.Random) -> str:
    return rng.choice(FRAMES[phrasing.mood]).format(phrasing.text) if rng.random() < FRAMED else phrasing.text


def _phrase_both(first: Edit, second: Edit, rng: random.Random) -> str:
    """Phrase two edits as one sentence, both in the same mood if possible."""
    joinable = [
        [phrasing for phrasing in _list_phrasings(edit) if _can_join(phrasing.text)] for edit in (first, second)
    ]
    shared = {phrasing.mood for phrasing in joinable[0]} & {phrasing.mood for phrasing in joinable[1]}
    if not shared:
        return ", ".join(_choose(_list_phrasings(edit), rng).text for edit in (first, second))
    mood = _draw(MOODS, shared, rng)
    link = rng.choice((" and ", " and ", " and ", ", ", " and also "))
    return link.join(_choose([each for each in phrasings if each.mood == mood], rng).text for phrasings in joinable)


def _can_join(text: str) -> bool:
    """Return whether a condition can be half of a sentence."""
    return not (text.startswith(tuple(f"{word} " for word in _ALONE)) or text.split()[0].endswith("ing") or "," in text)

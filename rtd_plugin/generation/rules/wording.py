"""Conditions: what people would write to ask for an edit."""

import random
from collections.abc import Mapping, Sequence
from functools import cache
from string import Formatter

from rtd_plugin.generation.rules.phrasings import PATTERNS
from rtd_plugin.generation.rules.scene import Edit

MOODS = {"imperative": 35, "predicate": 30, "clause": 17, "noun": 18}  # and how often each is chosen where all fit
# What may stand around a condition of each mood.
FRAMES = {
    "imperative": ("{}, the rest is the same", "{} and leave everything else", "keep the scene but {}", "{} this time"),
    "predicate": ("the target photo {}", "the target picture {}", "the target image {}", "the picture {}", "it {}"),
    "clause": ("in the target picture, {}", "the same scene, but {}", "the same, except {}"),
    "noun": ("{}",),
}
FRAMED = 0.12  # of the conditions have one
SENTENCE_CASE, FULL_STOP = 0.7, 0.5  # of conditions, between CIRR's 0.88 and 0.61 and FashionIQ's 0.14 and 0.08
_IMPERATIVES = frozenset(
    [
        "replace",
        "change",
        "turn",
        "swap",
        "exchange",
        "substitute",
        "show",
        "remove",
        "take",
        "put",
        "use",
        "have",
        "make",
        "focus",
        "delete",
        "get",
        "leave",
        "drop",
        "keep",
        "add",
        "include",
        "give",
        "increase",
        "reduce",
        "bring",
        "target",
        "i",
    ]
)
_PREDICATES = ("is", "has", "shows", "are", "wears")
_ALONE = ("same", "the same", "unlike", "different", "goes", "only", "no", "make it", "just", "i", "not", "instead")


def condition(edits: Sequence[Edit], rng: random.Random) -> str:
    """A condition that asks for one or two edits."""
    text = _joined(*edits, rng) if len(edits) == 2 else _framed(*_phrased(edits[0], rng), rng)
    if rng.random() < SENTENCE_CASE:
        text = text[0].upper() + text[1:]
        if rng.random() < FULL_STOP / SENTENCE_CASE:
            text += "."
    return text


def mood(text: str) -> str:
    """Whether a condition asks, says something of the picture, or is a clause or a noun: a key of MOODS."""
    first, *others = text.split()
    if first in _IMPERATIVES:
        return "imperative"
    if first in _PREDICATES:
        return "predicate"
    return "clause" if {"is", "are"} & set(others) else "noun"


def _texts(edit: Edit) -> dict[str, list[str]]:
    """All phrasings of an edit, by mood."""
    found: dict[str, list[str]] = {}
    fields = dict(edit.fields)
    for pattern in PATTERNS[edit.kind]:
        if _fields_of(pattern) <= edit.fields.keys():
            text = " ".join(pattern.format(**fields).split())
            found.setdefault(mood(text), []).append(text)
    return found


@cache
def _fields_of(pattern: str) -> frozenset[str]:
    return frozenset(name for _, name, _, _ in Formatter().parse(pattern) if name)


def _mood_among(texts: Mapping[str, object], rng: random.Random) -> str:
    moods = [mood for mood in MOODS if mood in texts]
    return rng.choices(moods, [MOODS[mood] for mood in moods])[0]


def _phrased(edit: Edit, rng: random.Random) -> tuple[str, str]:
    texts = _texts(edit)
    chosen = _mood_among(texts, rng)
    return chosen, rng.choice(texts[chosen])


def _framed(mood: str, text: str, rng: random.Random) -> str:
    return rng.choice(FRAMES[mood]).format(text) if rng.random() < FRAMED else text


def _joined(one: Edit, other: Edit, rng: random.Random) -> str:
    """Two conditions as one sentence, both in the same mood."""
    first, second = (
        {mood: fit for mood, texts in _texts(edit).items() if (fit := list(filter(_joins, texts)))}
        for edit in (one, other)
    )
    shared = first.keys() & second.keys()
    if not shared:
        return ", ".join(_phrased(edit, rng)[1] for edit in (one, other))
    chosen = _mood_among(dict.fromkeys(shared), rng)
    link = rng.choice((" and ", " and ", " and ", ", ", " and also "))
    return rng.choice(first[chosen]) + link + rng.choice(second[chosen])


def _joins(text: str) -> bool:
    """Whether a condition can be a part of another."""
    return not (text.startswith(tuple(f"{word} " for word in _ALONE)) or text.split()[0].endswith("ing") or "," in text)

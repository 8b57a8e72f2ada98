"""Write conditions that ask for edits, the way people do."""

import random
from collections.abc import Collection, Sequence
from functools import cache
from string import Formatter

from rtd_plugin.generation.rules.phrasings import PATTERNS
from rtd_plugin.generation.rules.scene import Edit

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
    text = _phrase_both(edits[0], edits[1], rng) if len(edits) == 2 else _add_frame(*_phrase(edits[0], rng), rng)
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


def _list_phrasings(edit: Edit) -> dict[str, list[str]]:
    """Return all phrasings of an edit, by mood."""
    phrasings: dict[str, list[str]] = {}
    fields = dict(edit.fields)
    for pattern in PATTERNS[edit.kind]:
        if _parse_fields(pattern) <= edit.fields.keys():
            text = " ".join(pattern.format(**fields).split())
            phrasings.setdefault(find_mood(text), []).append(text)
    return phrasings


@cache
def _parse_fields(pattern: str) -> frozenset[str]:
    return frozenset(name for _, name, _, _ in Formatter().parse(pattern) if name)


def _choose_mood(available: Collection[str], rng: random.Random) -> str:
    moods = [mood for mood in MOODS if mood in available]
    return rng.choices(moods, [MOODS[mood] for mood in moods])[0]


def _phrase(edit: Edit, rng: random.Random) -> tuple[str, str]:
    phrasings = _list_phrasings(edit)
    mood = _choose_mood(phrasings, rng)
    return mood, rng.choice(phrasings[mood])


def _add_frame(mood: str, text: str, rng: random.Random) -> str:
    return rng.choice(FRAMES[mood]).format(text) if rng.random() < FRAMED else text


def _phrase_both(first: Edit, second: Edit, rng: random.Random) -> str:
    """Phrase two edits as one sentence, both in the same mood if possible."""
    first_phrasings, second_phrasings = (
        {
            mood: joinable
            for mood, texts in _list_phrasings(edit).items()
            if (joinable := list(filter(_can_join, texts)))
        }
        for edit in (first, second)
    )
    shared = first_phrasings.keys() & second_phrasings.keys()
    if not shared:
        return ", ".join(_phrase(edit, rng)[1] for edit in (first, second))
    mood = _choose_mood(shared, rng)
    link = rng.choice((" and ", " and ", " and ", ", ", " and also "))
    return rng.choice(first_phrasings[mood]) + link + rng.choice(second_phrasings[mood])


def _can_join(text: str) -> bool:
    """Return whether a condition can be half of a sentence."""
    return not (text.startswith(tuple(f"{word} " for word in _ALONE)) or text.split()[0].endswith("ing") or "," in text)

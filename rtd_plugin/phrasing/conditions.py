"""Write conditions for requests, phrased as people do."""

import random
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from string import Formatter
from typing import NamedTuple, TypeVar

from rtd_plugin.phrasing.patterns import PATTERNS
from rtd_plugin.phrasing.registers import REQUESTS, Register
from rtd_plugin.triplets.wording import ARTICLES

ORDERS = ("old first", "new first", "one alone")  # which content a condition names first
_OLD = ("{the_old", "{a_old", "{less_old", "{old", "{doing_old", "{placed_old")
_NEW = ("{a_new", "{the_new", "{new", "{doing_new", "{placed_new", "{comparative")
MOODS = ("imperative", "predicate", "clause", "noun")
Choice = TypeVar("Choice")
# Optional frames around a condition of each mood; around a noun that begins with its determiner also those of "thing".
FRAMES = {
    "imperative": (
        "{}, the rest is the same", "{} and leave everything else", "keep the scene but {}", "{} this time",
        "{} in the picture", "{} in the target image", "same picture, just {}", "take the first picture and {}",
    ),
    "predicate": (
        "the target photo {}", "the target picture {}", "the target image {}", "the picture {}", "it {}",
        "the target photo {}", "unlike the first picture, it {}", "the same but it {}", "something similar that {}",
    ),
    "clause": (
        "in the target picture, {}", "the same scene, but {}", "the same, except {}", "change it so that {}",
        "make it so that {}", "unlike the first image, {}", "different from the first photo, {}",
        "similar to the first photo, but {}", "a similar picture where {}", "there should be a change, {}",
        "show that {}", "make the picture so that {}", "unlike the reference, {}",
    ),
    "noun": ("same but {}", "make it {}", "similar, but {}", "it should be {}", "the target photo is {}"),
    "thing": (
        "shows {}", "show {}", "target on {}", "focus on {}", "make it with {}", "the target photo has {}",
        "the target photo shows {}", "change to {}", "put {} in the picture", "have {} in it", "target is on {}",
        "unlike the first picture, there should be {}", "make a picture of {}", "it's {}", "only {}",
        "make it a picture showing {}", "close picture showing {}", "a similar one showing {}", "must include {}",
        "similar photo with {} and nothing more", "changed, now with {}", "image with {}", "be {}",
        "the other one has {}",
        "the target image is of {}", "replace all with {}", "just {}",
    ),
}  # fmt: skip
LINKS = {
    "imperative": (" and ", " and ", " and ", ", ", " and also ", ". ", ", then "),
    "predicate": (" and ", " and ", " and ", " and ", ", "),
    "clause": (" and ", ", ", " and ", " while ", ". "),
    "noun": (" and ", ", ", ", "),
}
# Between edits of different moods. A noun after "and" could be another object of the verb before it.
MIXED_LINKS = (", ", ". ", ", ", " and ")
_IMPERATIVES = frozenset([
    "replace", "change", "turn", "swap", "exchange", "substitute", "show", "remove", "take", "put", "use", "have",
    "make", "focus", "delete", "get", "leave", "drop", "keep", "add", "include", "give", "increase", "reduce", "bring",
    "target", "i", "place", "paint", "zoom", "move", "forget", "multiply", "let", "darken",
])  # fmt: skip
_VERBS = frozenset([
    "is", "are", "faces", "looks", "has", "{is}", "{is_old}", "{subject_is}", "{subject_has}", "{does}", "{new_does}",
])  # fmt: skip
_PREDICATES = ("is", "has", "shows", "are", "wears", "goes", "faces")
_ALONE = tuple(
    f"{words} "
    for words in (
        "same",
        "the same",
        "unlike",
        "different",
        "goes",
        "only",
        "no",
        "make it",
        "just",
        "i",
        "not",
        "instead",
    )
)
_ACTIONS = ("{doing_new}", "{new_verb}", "{verb}", "{new_act}")
_DETERMINERS = frozenset(["a", "an", "one", "two", "three", "four", "five", "six", "seven", "eight", "another", "more"])


@dataclass(frozen=True)
class Request:
    """What a condition asks for.

    Attributes:
        kind: a key of `patterns.PATTERNS`.
        fields: the values that its patterns may use, by name; an empty one only says that a pattern fits.
    """

    kind: str
    fields: Mapping[str, str]


class Phrasing(NamedTuple):
    """A pattern with its mood, one of MOODS, its order, one of ORDERS, and its first word, see `find_opening`."""

    pattern: str
    mood: str
    order: str
    opening: str


def write_condition(requests: Sequence[Request], rng: random.Random, register: Register = REQUESTS) -> str:
    """Write a condition for one or more requests."""
    text = _phrase_several(requests, rng, register) if len(requests) > 1 else _phrase_one(requests[0], rng, register)
    if rng.random() < register.telegraphic:
        text = _leave_articles_out(text, rng)
    if register.open_compounds and rng.random() < register.open_compounds:
        text = text.replace("-", " ")
    if rng.random() < register.sentence_case:
        text = re.sub(r"(^|\. )(\w)", lambda match: match[1] + match[2].upper(), text)
        if rng.random() < register.full_stop / register.sentence_case:
            text += "."
    return text


def find_mood(pattern: str) -> str:
    """Return the mood of a condition or a pattern: one of MOODS."""
    first, *following = _strip_restrictions(pattern).split()
    if first in _IMPERATIVES:
        return "imperative"
    if first in _PREDICATES:
        return "predicate"
    return "clause" if _VERBS & {word.strip(",.") for word in following} else "noun"


def _strip_restrictions(pattern: str) -> str:
    """Return a pattern without the fields that are always empty."""
    return re.sub(r"\{\w+\}(?=[\w{])", "", pattern)


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
def find_opening(pattern: str) -> str:
    """Return the first word of a pattern's conditions, or the field with which it begins: its words vary."""
    first = _strip_restrictions(pattern).split()[0].rstrip(",.")
    article = re.match(r"\{(the|a)_", first)
    return article[1] if article else first


@cache
def _parse_fields(pattern: str) -> frozenset[str]:
    return frozenset(name for _, name, _, _ in Formatter().parse(pattern) if name)


@cache
def _list_suitable(patterns: tuple[str, ...], fields: frozenset[str]) -> tuple[Phrasing, ...]:
    return tuple(
        Phrasing(pattern, find_mood(pattern), find_order(pattern), find_opening(pattern))
        for pattern in patterns
        if _parse_fields(pattern) <= fields
    )


def _list_phrasings(request: Request, register: Register = REQUESTS) -> tuple[Phrasing, ...]:
    """Return all phrasings of a request, those that only its register has last."""
    fields = frozenset(request.fields)
    further = register.patterns.get(request.kind, ())
    return _list_suitable(PATTERNS[request.kind], fields) + _list_suitable(further, fields)


def can_phrase(request: Request) -> bool:
    """Return whether a pattern fits a request."""
    return bool(_list_phrasings(request))


def _fill(phrasing: Phrasing, request: Request) -> str:
    return " ".join(phrasing.pattern.format(**request.fields).split())


def _draw(shares: Mapping[str, int], available: Collection[str], rng: random.Random) -> str:
    names = [name for name in shares if name in available]
    weights = [shares[name] for name in names]
    return rng.choices(names, weights if any(weights) else None)[0]


def _choose(phrasings: Sequence[Phrasing], rng: random.Random, register: Register = REQUESTS) -> Phrasing:
    """Choose the order, then the mood, then the words."""
    wanted = [phrasing for phrasing in phrasings if register.moods[phrasing.mood]] or phrasings
    order = _draw(register.orders, {phrasing.order for phrasing in wanted}, rng)
    mood = _draw(register.moods, {phrasing.mood for phrasing in wanted if phrasing.order == order}, rng)
    wanted = [phrasing for phrasing in wanted if (phrasing.order, phrasing.mood) == (order, mood)]
    return _draw_by_opening(wanted, [phrasing.opening for phrasing in wanted], rng, register)


def _draw_by_opening(
    choices: Sequence[Choice], openings: Sequence[str], rng: random.Random, register: Register
) -> Choice:
    """Draw so that first words have the shares of the register, and choices with one first word are equally likely.

    First words that the register does not list share the rest. Without shares, all choices are equally likely.
    """
    shares = register.openings
    if not shares:
        return rng.choice(choices)
    names = [opening if opening in shares else "" for opening in openings]
    rest = 100 - sum(shares.values())
    return rng.choices(choices, [shares.get(name, rest) / names.count(name) for name in names])[0]


def _phrase_one(request: Request, rng: random.Random, register: Register) -> str:
    phrasing = _choose(_list_phrasings(request, register), rng, register)
    text = _fill(phrasing, request)
    if rng.random() >= register.framed or text.startswith(_ALONE):
        return text
    frames = FRAMES[phrasing.mood]
    if phrasing.mood == "noun":
        first = text.split()[0]
        if first in _DETERMINERS:
            frames = FRAMES["thing"]
        elif "instead" in text or "rather" in text or not first.endswith("ing"):
            return text
    return _draw_by_opening(frames, [find_opening(frame) for frame in frames], rng, register).format(text)


def _phrase_several(requests: Sequence[Request], rng: random.Random, register: Register) -> str:
    """Phrase requests as one sentence or two, in the same mood if possible."""
    joinable = [
        [phrasing for phrasing in _list_phrasings(request, register) if _can_join(phrasing.pattern)]
        for request in requests
    ]
    shared = set.intersection(*({phrasing.mood for phrasing in phrasings} for phrasings in joinable))
    shared = {mood for mood in shared if register.moods[mood]} or shared
    if not shared or rng.random() < 0.15:
        several = [_choose(_list_phrasings(request, register), rng, register) for request in requests]
        texts = [_fill(phrasing, request) for phrasing, request in zip(several, requests, strict=True)]
        return _join(texts, MIXED_LINKS[:-1] if several[-1].mood == "noun" else MIXED_LINKS, rng)
    mood = _draw(register.moods, shared, rng)
    texts = []
    for request, phrasings in zip(requests, joinable, strict=True):
        chosen = _choose([each for each in phrasings if each.mood == mood], rng, register)
        texts.append(_fill(chosen, request))
    if mood == "predicate" and rng.random() < 0.6:
        texts = _contract(texts)
    text = _join(texts, LINKS[mood], rng)
    if rng.random() < register.framed / 2 and mood in ("predicate", "clause"):
        frames = FRAMES[mood]
        return _draw_by_opening(frames, [find_opening(frame) for frame in frames], rng, register).format(text)
    return text


def _contract(texts: Sequence[str]) -> list[str]:
    """Return predicates of which each that suits the one before is a part of it: "is red with long sleeves"."""
    contracted = [texts[0]]
    for text in texts[1:]:
        before, (verb, _, rest) = contracted[-1], text.partition(" ")
        if " no " in before or " not " in before:
            contracted.append(text)
        elif before.startswith("is ") and verb in ("is", "has"):
            contracted[-1] += f" {'and' if verb == 'is' else 'with'} {rest}"
        elif before.startswith("has ") and verb == "has":
            contracted[-1] += f" and {rest}"
        else:
            contracted.append(text)
    return contracted


def _join(texts: Sequence[str], links: Sequence[str], rng: random.Random) -> str:
    link = rng.choice(links)
    if len(texts) <= 2 or link not in (" and ", ", "):
        return link.join(texts)
    return ", ".join(texts[:-1]) + rng.choice((" and ", ", and ", ", ")) + texts[-1]


@cache
def _can_join(pattern: str) -> bool:
    """Return whether a condition can be half of a sentence."""
    text = _strip_restrictions(pattern)
    return not (text.startswith(_ALONE) or text.split()[0] in _ACTIONS or "," in text)


def _leave_articles_out(text: str, rng: random.Random) -> str:
    """Leave out the first article, or all articles that a clause can do without."""
    if rng.random() < 0.6:
        first, _, rest = text.partition(" ")
        return rest if first in ARTICLES and rest else text.replace(" the ", " ", 1)
    return " ".join(word for word in text.split(" ") if word not in ARTICLES) or text

"""What a condition says about the edit between two captions, judged by its words."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Literal

from rtd_plugin.triplets.triplet import Triplet

Order = Literal["old first", "new first", "new alone", "old alone", "neither"]
ORDERS: tuple[Order, ...] = ("old first", "new first", "new alone", "old alone", "neither")

WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def _split(text: str) -> frozenset[str]:
    return frozenset(text.split())


ARTICLES = _split("a an the")
# Words of captions and conditions about any subject.
COMMON_WORDS = ARTICLES | _split("is are be it its of in on at to and or with by for from one some this that")
# Colours and sizes, and the words that, before one of them, are a part of it: "light blue", "medium light".
TONES = _split("""
    light dark bright black white red brown blue navy green yellow pink orange purple violet grey gray blond blonde
    beige tan cream golden gold silver maroon burgundy turquoise teal small large big long short tall
""")
SHADES = _split("light dark bright pale deep")  # describe things also where no tone follows
TONE_MODIFIERS = SHADES | _split("medium mid hot neon navy royal sky baby lime olive")
NEGATIONS = _split("no not without")
_WORDS = r"((?:[\w'’-]+ ?){1,4}?)"
_END = r" ?(?:$|[.,;:!?]|\b(?:and|but|or|from|instead|rather|in|on|at|with|so|anymore)\b)"
_ARTICLE = r"(?:(?:a|an|the|any|his|her|their|its) )?"
_REMOVAL = re.compile(
    r"\b(?:no|without|remove|delete|take (?:away|out|off)|get rid of|leave out|drop|not (?:wearing|holding|carrying)) "
    rf"(?!more|longer|one|other|less|only){_ARTICLE}{_WORDS}{_END}"
)
_EXCHANGES = (
    re.compile(rf"\b(?:replace|swap out|swap|exchange|turn|change) {_ARTICLE}{_WORDS} ?\b(?:with|by|for|into|to) "),
    re.compile(rf"\b(?:instead of|rather than|in place of|not) {_ARTICLE}{_WORDS}{_END}"),
)


@lru_cache(maxsize=1024)  # the captions of many wordings are the same
def split_words(text: str) -> tuple[str, ...]:
    """Return a text's words in lower case."""
    return tuple(WORD.findall(text.lower()))


def is_unchanged(triplet: Triplet) -> bool:
    """Return whether the captions differ in articles, case and punctuation at most."""
    reference, target = ([word for word in split_words(text) if word not in ARTICLES] for text in triplet[::2])
    return reference == target


def find_order(triplet: Triplet) -> Order:
    """Return whether a condition first names words that only the reference has (old) or only the target (new).

    An encoder that is trained on a single order may learn to rely on it.
    """
    old, new = list_changed_words(triplet)
    named = [word for word in split_words(triplet.condition) if word in old | new]
    if not named:
        return "neither"
    if old.isdisjoint(named) or new.isdisjoint(named):
        return "new alone" if old.isdisjoint(named) else "old alone"
    return "old first" if named[0] in old else "new first"


def list_changed_words(triplet: Triplet) -> tuple[set[str], set[str]]:
    """Return the words that only the reference has, and those that only the target has."""
    reference, target = (set(split_words(text)) - COMMON_WORDS for text in triplet[::2])
    return reference - target, target - reference


def find_torn_compound(triplet: Triplet) -> str:
    """Return a compound that is new in the target and of which the condition names the last word only, or "".

    "is light" for a target of "medium light" teaches that the two are one. A shade that the reference has as well may
    go unnamed.
    """
    condition, reference = split_words(triplet.condition), split_words(triplet.reference)
    unnamed = TONE_MODIFIERS - {*condition} - (SHADES & {*reference})
    known = set(_list_compounds(triplet.reference))
    compounds = (pair for pair in _list_compounds(triplet.target) if pair not in known)
    return next((f"{modifier} {tone}" for modifier, tone in compounds if modifier in unnamed and tone in condition), "")


def _list_compounds(text: str) -> Iterator[tuple[str, str]]:
    words = split_words(text.replace("-", " "))
    return ((a, b) for a, b in pairwise(words) if a in TONE_MODIFIERS and b in TONES)


def find_contradiction(triplet: Triplet) -> str:
    """Return words that the condition removes although the target has them as often as the reference, or "".

    Words that it exchanges count only if the target has nothing that the condition asks for instead.
    """
    condition = " ".join(triplet.condition.lower().split())
    reference, target = split_words(triplet.reference), split_words(triplet.target)
    for match in _REMOVAL.finditer(condition):
        if _is_kept(split_words(match[1]), reference, target):
            return match[1].strip()
    for pattern in _EXCHANGES:
        for match in pattern.finditer(condition):
            old = split_words(match[1])
            asked = set(split_words(condition[: match.start(1)] + condition[match.end(1) :])) - COMMON_WORDS
            more = {*(Counter(target) - Counter(reference))}  # words that the target has more often
            if _count_phrase(old, reference) and _is_kept(old, reference, target) and not asked & more:
                return match[1].strip()
    return ""


def _is_kept(words: Sequence[str], reference: Sequence[str], target: Sequence[str]) -> bool:
    """Return whether the target has a phrase, no less often than the reference."""
    if not words or set(words) <= COMMON_WORDS:
        return False
    return _count_phrase(words, target) >= max(1, _count_phrase(words, reference))


def _count_phrase(phrase: Sequence[str], words: Sequence[str]) -> int:
    """Count how often a text has a phrase that it does not negate."""
    length = len(phrase)
    return sum(
        words[start : start + length] == phrase and words[max(0, start - 1)] not in NEGATIONS
        for start in range(len(words) - length + 1)
    )

"""Registers of conditions: how people who write them begin, how long they are, and how they ask.

The shares are rounded statistics of conditions that people wrote: requests those of CIRR, statements those of
FashionIQ. They hold no sentence of either.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rtd_plugin.phrasing.request_patterns import REQUEST_PATTERNS
from rtd_plugin.phrasing.statement_patterns import STATEMENT_PATTERNS
from rtd_plugin.triplets.wording import Order

RegisterName = Literal["mixed", "requests", "statements"]
STATEMENTS = 0.25  # the share of statements in the mixed register


@dataclass(frozen=True)
class Register:
    """A manner of writing conditions.

    Attributes:
        moods: the mood of a condition, a key of `conditions.MOODS`, to its relative frequency.
        orders: which content a condition names first, one of `conditions.ORDERS`, to its relative frequency where all
            fit. An encoder trained on a single order relies on it, and fails on the other.
        named: the order in which conditions name the words that change, see `triplets.wording.Order`, to its share in
            percent.
        openings: the first word to its share in percent; all other words have the rest. Without any, all patterns are
            equally likely.
        lengths: the number of words to its share in percent.
        words: a word of the grammar, not of captions, to how often it occurs among 1,000 words.
        framed: the share of conditions with a frame, such as "unlike the first picture, …".
        telegraphic: the share that leaves articles out.
        open_compounds: the share that writes words with hyphens apart: "long sleeved".
        sentence_case, full_stop: the shares that begin with a capital, and that end with a full stop.
        misspelt: the share with a slip of the fingers.
        patterns: those that only this register has, by the kind of request, as in `patterns.PATTERNS`.
    """

    moods: Mapping[str, int]
    orders: Mapping[str, int]
    named: Mapping[Order, float]
    openings: Mapping[str, float]
    lengths: Mapping[int, float]
    words: Mapping[str, float]
    framed: float
    telegraphic: float
    open_compounds: float
    sentence_case: float
    full_stop: float
    misspelt: float
    patterns: Mapping[str, tuple[str, ...]]


REQUESTS = Register(
    moods={"imperative": 36, "predicate": 18, "clause": 24, "noun": 22},
    orders={"old first": 31, "new first": 26, "one alone": 43},
    named={"old first": 21, "new first": 21, "new alone": 47, "old alone": 6, "neither": 5},
    openings={
        "make": 9, "change": 8.5, "shows": 8, "the": 8, "show": 6, "remove": 4.5, "put": 4, "target": 3, "add": 3,
        "two": 2.5, "a": 2.3, "place": 2.2, "have": 1.5, "focus": 1.5, "one": 1.4, "different": 1, "more": 0.9,
        "there": 0.9, "only": 0.8, "unlike": 0.7, "three": 0.7, "replace": 0.7, "take": 0.6, "paint": 0.6, "it": 0.6,
        "smaller": 0.5, "get": 0.5, "reduce": 0.4, "turn": 0.4, "zoom": 0.4, "four": 0.4, "close": 0.3, "same": 0.3,
        "bigger": 0.3, "just": 0.3, "it's": 0.2, "give": 0.2, "no": 0.2, "goes": 0.2, "leave": 0.2, "larger": 0.2,
        "move": 0.2, "include": 0.2, "instead": 0.2, "keep": 0.2, "not": 0.1, "from": 0.1, "something": 0.1, "in": 0.1,
        "i": 0.1, "swap": 0.2, "use": 0.1, "exchange": 0.1, "forget": 0.1, "with": 0.1, "substitute": 0.1,
        "delete": 0.1, "at": 0.1, "on": 0.1, "also": 0.1, "without": 0.1, "must": 0.1, "blurred": 0.1, "its": 0.1,
        "up": 0.1, "camera": 0.1, "bring": 0.1, "picture": 0.1, "closer": 0.2, "another": 0.2, "fewer": 0.2,
        "similar": 0.2, "has": 0.1, "is": 0.1, "color": 0.1, "view": 0.1, "other": 0.1, "image": 0.1, "changed": 0.1,
        "drop": 0.1, "increase": 0.1, "let": 0.1, "sitting": 0.05, "standing": 0.05, "facing": 0.05, "holding": 0.05,
        "wearing": 0.05, "laying": 0.05, "lying": 0.05, "running": 0.05, "further": 0.05, "pose": 0.05, "faces": 0.05,
        "number": 0.1, "group": 0.2,
    },
    lengths={
        2: 0.3, 3: 0.8, 4: 2.3, 5: 4.3, 6: 6.8, 7: 9.3, 8: 9, 9: 9, 10: 9, 11: 9.5, 12: 8, 13: 6.8, 14: 6.3, 15: 4.7,
        16: 3.7, 17: 2.7, 18: 2, 19: 1.5, 20: 1.2, 21: 0.8, 22: 0.5, 23: 0.4, 24: 0.4, 25: 0.3, 26: 0.2, 27: 0.2,
    },
    words={
        "the": 70, "a": 50, "with": 33, "and": 32, "of": 31, "in": 27, "on": 27, "to": 18, "one": 11, "make": 10,
        "change": 9, "two": 9, "is": 9, "shows": 8.5, "background": 7.5, "show": 7.5, "instead": 7, "rather": 5.5,
        "it": 5.5, "add": 5, "more": 5, "remove": 4.7, "have": 4.7, "its": 4.4, "has": 4.3, "from": 4.2, "camera": 4.2,
        "different": 4, "put": 4, "front": 3.7, "another": 3.7, "similar": 3.5, "facing": 3.5, "up": 3.5, "close": 3,
        "image": 3, "color": 2.7, "photo": 2.6, "that": 2.6, "are": 2.5, "place": 2.5, "side": 2.4, "angle": 2.4,
        "shot": 2.5, "focus": 2, "only": 2, "not": 1.9, "same": 1.8, "but": 1.4, "be": 1.4, "there": 1.2, "no": 0.9,
        "scene": 0.9, "picture": 1, "than": 0.3, "first": 0.2, "keep": 0.2, "leave": 0.3, "rest": 0.8,
        "everything": 0.1, "else": 0.1, "this": 0.3, "time": 0.1, "so": 0.6, "goes": 0.3, "except": 0.1, "should": 0.4,
        "longer": 0.3, "now": 0.4, "making": 4, "showing": 3.3, "changed": 2, "must": 2, "other": 2, "include": 1.4,
        "replaced": 0.1, "swapped": 0.1, "swap": 0.1, "replace": 0.8, "into": 1.6, "also": 0.2, "gone": 0.1, "for": 1.3,
        "number": 0.8, "without": 0.2, "view": 1.6, "five": 0.3, "four": 0.9, "drawing": 0.2, "painting": 0.2,
        "seen": 0.1, "night": 0.2, "dim": 0.1, "blurred": 0.8, "photograph": 0.7, "target": 7, "coverage": 1.2,
        "group": 1.4, "face": 2.7, "closer": 1, "larger": 1.2, "smaller": 1.6, "darker": 1.2, "lighter": 0.7,
        "bigger": 0.8, "effect": 1.6, "changes": 0.1, "joins": 0.1, "where": 0.2, "increase": 0.1, "three": 3.2,
        "some": 1.2, "away": 1.4, "against": 1, "all": 1.3,
    },
    framed=0.35,
    telegraphic=0.45,
    open_compounds=0.0,
    sentence_case=0.88,
    full_stop=0.6,
    misspelt=0.03,
    patterns=REQUEST_PATTERNS,
)  # fmt: skip
STATEMENTS_REGISTER = Register(
    moods={"imperative": 0, "predicate": 90, "clause": 5, "noun": 5},
    orders={"old first": 3, "new first": 3, "one alone": 94},
    named={"old first": 3, "new first": 3, "new alone": 68, "old alone": 8, "neither": 18},
    openings={
        "is": 62, "has": 22, "the": 3.3, "it": 1.6, "a": 1.1, "more": 0.6, "shorter": 0.3, "darker": 0.3, "longer": 0.3,
        "less": 0.2, "lighter": 0.2, "must": 0.02, "also": 0.02, "change": 0.02, "make": 0.02, "only": 0.02,
        "with": 0.3, "no": 0.2, "comes": 0.1, "shows": 0.1, "there": 0.02, "different": 0.1, "something": 0.02,
        "unlike": 0.02, "target": 0.02, "color": 0.02, "goes": 0.02, "without": 0.02, "from": 0.02, "in": 0.05,
        "not": 0.1, "same": 0.02, "show": 0.02,
    },
    lengths={1: 0.8, 2: 7, 3: 13, 4: 13.5, 5: 20, 6: 18.5, 7: 13, 8: 7.5, 9: 3.7, 10: 1.8, 11: 0.6, 12: 0.3},
    words={
        "is": 137, "and": 84, "has": 57, "a": 49, "with": 44, "more": 33, "color": 17.5, "longer": 16.6,
        "shorter": 15.5, "in": 12.4, "darker": 10.4, "the": 10, "less": 9.7, "lighter": 9.2, "no": 8.5, "it": 8.3,
        "colored": 8.1, "on": 6.7, "solid": 5.6, "different": 4.6, "pattern": 4, "of": 2.8, "design": 2.8, "plain": 2.1,
        "not": 1.9, "an": 1.6, "image": 1.6, "much": 1.4, "larger": 1.2, "smaller": 1.1, "tighter": 1, "looser": 0.9,
        "but": 0.9, "to": 0.9, "picture": 0.7, "only": 0.7, "similar": 0.5, "instead": 0.5, "that": 0.4, "same": 0.4,
        "without": 0.4, "are": 0.3, "shows": 0.2, "than": 0.2, "there": 0.1, "be": 0.1, "something": 0.1,
        "should": 0.05, "first": 0.05, "unlike": 0.05, "target": 0.05, "now": 0.1, "also": 0.1,
    },
    framed=0.03,
    telegraphic=0.15,
    open_compounds=0.7,
    sentence_case=0.14,
    full_stop=0.08,
    misspelt=0.03,
    patterns=STATEMENT_PATTERNS,
)  # fmt: skip
REGISTERS: Mapping[str, tuple[tuple[Register, float], ...]] = {
    "mixed": ((REQUESTS, 1 - STATEMENTS), (STATEMENTS_REGISTER, STATEMENTS)),
    "requests": ((REQUESTS, 1.0),),
    "statements": ((STATEMENTS_REGISTER, 1.0),),
}
"""The registers that a build may use, each with its share."""

"""Captions that are no sentences: titles of products, and descriptions that end in a list of details."""

import re
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING

from rtd_plugin.generation.rules.measures import find_measure
from rtd_plugin.generation.rules.word_classes import ATTRIBUTES, make_set
from rtd_plugin.triplets.wording import TONE_MODIFIERS

if TYPE_CHECKING:
    from spacy.tokens import Doc, Span

DETAIL = "meta"  # the dependency of the tokens of a list of details
SEPARATOR = re.compile(r",\s|\s[-–—|/]\s|\s?[(]")
_MARKS = ",-–—|/();."
_SMALL = make_set("a an and at by for from in of on or per the to with x oz lb lbs ft mm cm ml kg")
TITLE = 0.75  # share of words with a capital in a title


@lru_cache(maxsize=4096)
def is_title(caption: str) -> bool:
    """Return whether most words of a caption have capitals, as in "Leather Work Boots, Black, Size 11"."""
    words = [word for word in re.findall(r"[^\W\d_][\w'’]*", caption) if word.lower() not in _SMALL]
    return len(words) > 1 and sum(word[0].isupper() for word in words) >= TITLE * len(words)


def lower_title(title: str) -> str:
    """Return a title in lower case, apart from abbreviations, in the same number of characters."""
    return re.sub(r"\w+", _lower, title)


def _lower(match: "re.Match[str]") -> str:
    word, lower = match[0], match[0].lower()
    is_abbreviation = len(word) > 1 and word.isupper()
    return word if is_abbreviation or len(lower) != len(word) else lower  # "İ" has two letters in lower case


def capitalise_title(words: str) -> str:
    """Return words in the capitals of a title."""
    return " ".join(word if word in _SMALL else re.sub(r"\b[a-z](?=\w)", _capitalise, word) for word in words.split())


def _capitalise(match: "re.Match[str]") -> str:
    return match[0].upper()


def find_details(caption: str) -> int:
    """Return where the list of details of a caption starts, at a comma or another mark; its length without one.

    A title has details after its first mark; another caption, if all that follows the mark is known as a detail:
    "leather boots, brown, size 10".
    """
    first = SEPARATOR.search(caption)
    if first is None or first.start() == 0:
        return len(caption)
    details = [detail.strip(f" {_MARKS}").lower() for detail in SEPARATOR.split(caption[first.start() :])]
    if is_title(caption) or all(is_detail(detail) for detail in details if detail):
        return first.start()
    return len(caption)


def is_detail(text: str) -> bool:
    """Return whether a text is the value of an attribute or a measure, and nothing else."""
    return find_measure(text) is not None or bool(find_value(text))


def find_value(text: str) -> str:
    """Return the word, or words, of a text that give the kind of its value, such as "green" of "olive green"; or ""."""
    words = text.lower().split()
    for start in range(len(words)):
        value = " ".join(words[start:])
        if value in ATTRIBUTES:
            is_tone = ATTRIBUTES[value][0][0] == "colour" and start == 1
            return value if start == 0 or is_tone or set(words[:start]) <= TONE_MODIFIERS else ""
    return ""


def list_details(doc: "Doc") -> list["Span"]:
    """Return the details of a parsed caption, without the marks between them."""
    tokens = [token for token in doc if token.dep_ == DETAIL]
    spans = []
    for is_mark, group in groupby(tokens, key=lambda token: token.text.strip(_MARKS) == ""):
        members = list(group)
        if not is_mark:
            spans.append(doc[members[0].i : members[-1].i + 1])
    return spans

"""The attributes of noun phrases: words before the noun, details after it, and adjectives after "is"."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rtd_plugin.generation.rules.fragments import find_value, is_title, list_details, lower_title
from rtd_plugin.generation.rules.measures import Measure, find_measure, list_measures
from rtd_plugin.generation.rules.phrases import LONGEST, SUBJECT, NounPhrase
from rtd_plugin.generation.rules.word_classes import ATTRIBUTES, OF_COMPOUNDS
from rtd_plugin.triplets.wording import TONE_MODIFIERS, TONES

if TYPE_CHECKING:
    from spacy.tokens import Token

_AFTER_IN = ("colour", "material", "pattern")


@dataclass(frozen=True)
class Attribute:
    """An attribute of a thing.

    Attributes:
        start, end: the range of tokens of its value; the end is excluded.
        words: the value in lower case; a compound such as "light blue" is one.
        noun: the words of the thing that it describes, without it.
        removal: the range of tokens that leave with it: with a comma, or "in".
        measure: the value if it is a measure.
        is_predicate: whether it follows a verb, without which the caption is no sentence.
    """

    start: int
    end: int
    words: str
    noun: str
    removal: tuple[int, int]
    measure: Measure | None = None
    is_predicate: bool = False


def find_attributes(phrase: NounPhrase) -> Iterator[Attribute]:
    """Yield the attributes of a noun phrase, before and after its noun."""
    yield from _find_before(phrase)
    if phrase.head.dep_ == "ROOT":
        yield from _find_details(phrase)
    yield from _find_after_in(phrase)
    yield from _find_predicates(phrase)


def _find_before(phrase: NounPhrase) -> Iterator[Attribute]:
    doc, position = phrase.head.doc, phrase.first
    measures = {start: (end, measure) for start, end, measure in list_measures(doc) if phrase.first <= start}
    while position < phrase.head.i:
        if position in measures:
            end, measure = measures[position]
            if end < phrase.end:
                yield _make(phrase, position, end, measure)
            position = end
            continue
        end = _find_end_of_value(phrase, position) or position + 1
        if end == position + 1 and _names_colour(phrase, position):
            end = position + 2
        if end > position + 1 or _is_attribute(phrase, doc[position]):
            yield _make(phrase, position, end)
        position = end


def _make(phrase: NounPhrase, start: int, end: int, measure: Measure | None = None) -> Attribute:
    doc = phrase.head.doc
    noun = lower_title(doc[end : phrase.end].text)
    return Attribute(start, end, lower_title(doc[start:end].text), noun, (start, end), measure)


def _find_end_of_value(phrase: NounPhrase, start: int) -> int:
    """Return the end of the longest value of several words that starts at a token, such as "stainless steel"; or 0."""
    doc = phrase.head.doc
    for end in range(min(start + LONGEST, phrase.head.i), start + 1, -1):
        words = doc[start:end].text.lower()
        if words in ATTRIBUTES or (end == start + 2 and _is_modifier(doc[start], doc[start + 1])):
            return end
    return 0


def _is_modifier(word: "Token", tone: "Token") -> bool:
    """Return whether a word is a part of the tone that follows it: in "light blue" and "medium light"."""
    is_part = word.lower_ in TONE_MODIFIERS or word.lower_.endswith("ish")  # "reddish brown"
    return is_part and tone.lower_ in TONES and not list(word.children)


def _names_colour(phrase: NounPhrase, start: int) -> bool:
    """Return whether a noun is a part of the colour after it: in "chocolate brown"."""
    word, tone = phrase.head.doc[start], phrase.head.doc[start + 1]
    is_colour = any(kind == "colour" for kind, _ in ATTRIBUTES.get(tone.lower_, ()))
    is_name = word.tag_ == "NN" and word.dep_ == "compound" and word.lower_ not in ATTRIBUTES
    return is_name and is_colour and tone.i < phrase.head.i and not is_title(phrase.head.doc.text)


def _is_attribute(phrase: NounPhrase, token: "Token") -> bool:
    """Return whether a single word describes the noun."""
    if token.i + 1 < phrase.head.i and token.nbor().tag_ in ("CC", ","):
        return False
    if token.dep_ == "conj" or any(child.dep_ in ("cc", "conj") for child in token.children):
        return False
    kinds = {kind for kind, _ in ATTRIBUTES.get(token.lower_, ())}
    if token.dep_ == "amod" and token.head == phrase.head:
        return bool(kinds) or not list(token.children)
    if token.dep_ == "poss":
        return False
    return bool(kinds & OF_COMPOUNDS) or (token.tag_ in ("JJ", "RB") and bool(kinds))


def _find_details(phrase: NounPhrase) -> Iterator[Attribute]:
    """Yield the attributes in a list of details."""
    doc = phrase.head.doc
    for span in list_details(doc):
        words = lower_title(span.text)
        measure = find_measure(words)
        if measure or find_value(words):
            removal = (span.start - 1, span.end)
            if doc[span.start - 1].text == "(" and span.end < len(doc):
                removal = (span.start - 1, span.end + 1)
            yield Attribute(span.start, span.end, words, phrase.term_text, removal, measure)


def _find_after_in(phrase: NounPhrase) -> Iterator[Attribute]:
    """Yield the value after "in": in "a blouse in pale pink"."""
    doc = phrase.head.doc
    for link in phrase.head.rights:
        if link.lower_ != "in" or link.dep_ != "prep":
            continue
        end = link.i + 1
        while end < len(doc) and end <= link.i + LONGEST and doc[end].text.isalpha() and doc[end].pos_ != "ADP":
            end += 1
        value = doc[link.i + 1 : end].text.lower()
        kinds = {kind for kind, _ in ATTRIBUTES.get(find_value(value), ())}
        if kinds & set(_AFTER_IN) and (end == len(doc) or doc[end].tag_ not in ("CC", "NN", "NNS")):
            yield Attribute(link.i + 1, end, value, phrase.core, (link.i, end))


def _find_predicates(phrase: NounPhrase) -> Iterator[Attribute]:
    """Yield the adjective after "is"."""
    if phrase.head.dep_ not in SUBJECT:
        return
    for token in phrase.head.head.rights:
        if (
            token.dep_ == "acomp"
            and token.head.lemma_ == "be"
            and not any(child.dep_ in ("cc", "conj", "advmod", "neg") for child in token.children)
        ):
            start = token.i - (_is_modifier(token.nbor(-1), token) or token.nbor(-1).lower_ in TONE_MODIFIERS)
            words = token.doc[start : token.i + 1].text.lower()
            yield Attribute(start, token.i + 1, words, phrase.core, (start, token.i + 1), None, True)


def list_kinds(attribute: Attribute) -> set[str]:
    """Return the kinds of an attribute's value."""
    return {kind for kind, _ in ATTRIBUTES.get(find_value(attribute.words), ())}

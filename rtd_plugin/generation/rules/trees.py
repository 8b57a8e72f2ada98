"""Parse trees as lists of words, and repairs of what the parser often gets wrong in captions."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from rtd_plugin.generation.rules.fragments import DETAIL
from rtd_plugin.generation.rules.measures import find_measure
from rtd_plugin.generation.rules.word_classes import ATTRIBUTES, make_set

if TYPE_CHECKING:
    from spacy.tokens import Doc

_HYPHENS = "-‐‑–"
_DETERMINERS = ("DT", "PRP$", "CD")
_MODIFIERS = ("JJ", "JJR", "JJS", "NN", "NNS", "NNP", "VBN", "CD", "HYPH")
_NOUNS = ("NN", "NNS")
_SHOWING = {"showing": "show", "demonstrating": "demonstrate", "featuring": "feature", "depicting": "depict"}
_PREPOSITIONS = make_set("with for of in on from without")


@dataclass(slots=True)
class Word:
    """A word of a parsed caption.

    Attributes:
        text, space, tag, pos, dep, lemma: as spaCy's tokens have them.
        head: the index of the word that governs it; its own for the root.
    """

    text: str
    space: bool
    tag: str
    pos: str
    dep: str
    head: int
    lemma: str


def list_words(parsed: "Doc", caption: str, added: int) -> list[Word]:
    """Return the words of a parse in the letters of the caption, without those that were added at its start."""
    skipped = sum(token.idx < added for token in parsed)
    words = []
    for token in parsed[skipped:]:
        head, dep = token.head, token.dep_
        while head.i < skipped and head.head.i != head.i:
            head = head.head
        if head.i < skipped:
            head, dep = token, "ROOT"
        start = token.idx - added
        tag = token.tag_
        if tag in ("NNP", "NNPS") and (token.is_lower or (token.is_upper and len(token) > 1)):
            tag = "NNS" if tag == "NNPS" else "NN"  # "CT" is a noun, not a name
        text = caption[start : start + len(token.text)]
        words.append(Word(text, bool(token.whitespace_), tag, token.pos_, dep, head.i - skipped, token.lemma_))
    return words


def join_hyphens(words: Sequence[Word]) -> list[Word]:
    """Return words in which those with hyphens, such as "long-sleeved", are one."""
    groups: list[list[int]] = []
    for index, word in enumerate(words):
        follows = index > 0 and not words[index - 1].space and groups
        is_joint = follows and (
            (word.text in _HYPHENS and words[index - 1].text.isalnum())
            or (words[index - 1].text in _HYPHENS and len(groups[-1]) > 1 and word.text.isalnum())
        )
        if is_joint:
            groups[-1].append(index)
        else:
            groups.append([index])
    if len(groups) == len(words):
        return list(words)
    position = {index: number for number, group in enumerate(groups) for index in group}
    joined = []
    for number, group in enumerate(groups):
        tops = [i for i in group if words[i].head not in group or words[i].head == i]
        top = words[next((i for i in reversed(tops) if words[i].text not in _HYPHENS), group[-1])]
        last = words[group[-1]]
        head = number if top.dep == "ROOT" else position[top.head]
        text = "".join(words[i].text for i in group)
        lemma = text[: len(text) - len(last.text)].lower() + last.lemma if len(group) > 1 else last.lemma
        tag = last.tag if top.dep in ("ROOT", "pobj", "dobj", "nsubj", "conj") and last.tag in _NOUNS else top.tag
        dep = "ROOT" if head == number else top.dep
        joined.append(Word(text, last.space, tag, top.pos, dep, head, lemma))
    return joined


def _attach(words: Sequence[Word], index: int, head: int, dep: str) -> None:
    words[index].head, words[index].dep = head, dep


def flatten_title(words: Sequence[Word]) -> None:
    """Parse a title by its words alone: noun phrases between prepositions, each with its last word as its noun.

    The parser takes nouns of titles for verbs ("gel ink pens", "tote bag"); tags of their modifiers do not matter.
    """
    end = next((index for index, word in enumerate(words) if word.dep == DETAIL), len(words))
    links = [i for i in range(end) if words[i].text.lower() in _PREPOSITIONS or words[i].text.lower() in ("and", "&")]
    bounds = [*links, end]
    if not bounds or bounds[0] == 0 or any(b - a == 1 for a, b in pairwise(bounds)):
        return
    root = bounds[0] - 1
    noun = _make_phrase(words, 0, bounds[0], root, "ROOT")
    for start, stop in pairwise(bounds):
        if words[start].text.lower() in _PREPOSITIONS:
            _attach(words, start, root, "prep")
            words[start].tag, words[start].pos = "IN", "ADP"
            noun = _make_phrase(words, start + 1, stop, start, "pobj")
        else:
            _attach(words, start, noun, "cc")
            words[start].tag = "CC"
            noun = _make_phrase(words, start + 1, stop, noun, "conj")
    for index in range(end, len(words)):
        words[index].head = root


def _make_phrase(words: Sequence[Word], start: int, end: int, head: int, dep: str) -> int:
    """Make a range of words a noun phrase, and return its noun, the last word."""
    noun = end - 1
    text = words[noun].text.lower()
    _attach(words, noun, noun if dep == "ROOT" else head, dep)
    if words[noun].tag not in _NOUNS:
        plural = text.endswith("s") and not text.endswith("ss")
        words[noun].tag = "NNS" if plural else "NN"
        words[noun].lemma = text[:-1] if plural else text
    words[noun].pos = "NOUN"
    for index in range(start, noun):
        following = next((i for i in range(index + 1, end) if words[i].tag != "POS"), noun)
        is_owner = index + 1 < noun and words[index + 1].tag == "POS"
        if words[index].tag == "POS":
            _attach(words, index, index - 1, "case")
        elif is_owner:
            _attach(words, index, noun, "poss")
        elif words[index].tag in _DETERMINERS and index == start and following == index + 1:
            _attach(words, index, noun, "det" if words[index].tag == "DT" else "nummod")
        else:
            _attach(words, index, noun, "amod" if words[index].tag.startswith(("JJ", "VBN")) else "compound")
    return noun


def repair_phrases(words: list[Word]) -> None:
    """Give each article the noun that it belongs to.

    The parser attaches it beyond an "and" in "a yellow crown and black wings", and takes "back" in "a grey back" for an
    adverb, "showing" in "chest radiograph showing consolidation" for a noun, and "wedding" in "lace wedding dress" for
    a verb.
    """
    for index, word in enumerate(words[1:-1], 1):
        if word.text in _SHOWING and word.tag in _NOUNS and words[index - 1].tag in _NOUNS and word.head > index:
            _repair_verb(words, index)
        elif word.text in _SHOWING and word.dep in ("acl", "pcomp") and word.tag == "VBG":
            _raise_verb(words, index)
    for index, word in enumerate(words[1:-1], 1):
        if (
            word.tag == "VBG"
            and word.dep == "acl"
            and _is_material(words[index - 1])
            and words[index + 1].head == index
        ):
            _join_noun(words, index)
    for start, word in enumerate(words):
        is_first = start == 0 or words[start - 1].tag not in _DETERMINERS
        if is_first and word.tag in _DETERMINERS and word.dep in ("det", "poss", "nummod"):
            end = start + 1
            while end < len(words) and (words[end].tag in _MODIFIERS or words[end].dep in ("amod", "compound")):
                end += 1
            _repair_back(words, start, end)
            if end > start + 1 and words[end - 1].tag in _NOUNS:
                if start < word.head < end - 1 and find_measure(f"{word.text} {words[start + 1].text}") is None:
                    word.head = end - 1
                elif word.head > end:
                    _repair_range(words, start, end)


def _is_material(word: Word) -> bool:
    return any(kind == "material" for kind, _ in ATTRIBUTES.get(word.text.lower(), ()))


def _join_noun(words: list[Word], verb: int) -> None:
    """Make a word that describes the noun after it no verb: in "lace wedding dress", lace does not wed."""
    material, noun = verb - 1, verb + 1
    if words[noun].tag not in _NOUNS:
        return
    dep, head = words[material].dep, words[material].head
    for index, word in enumerate(words):
        if word.head in (material, verb) and index != noun:
            word.head = noun
    _attach(words, noun, noun if dep == "ROOT" else head, dep)
    _attach(words, material, noun, "compound")
    _attach(words, verb, noun, "compound")
    words[verb].tag = "NN"


def _repair_back(words: list[Word], start: int, end: int) -> None:
    """Make "back" the noun of a phrase whose other words all describe it."""
    if end >= len(words) or end == start + 1 or words[end].text.lower() != "back" or words[end].tag not in ("RB", "RP"):
        return
    inside = range(start + 1, end)
    if not all(words[i].tag.startswith("JJ") or words[i].text.lower() in ATTRIBUTES for i in inside):
        return
    if words[end - 1].head == end:
        words[end].tag, words[end].pos = "NN", "NOUN"
        return
    old = end - 1  # the word that the parser took for the noun
    words[end] = Word(words[end].text, words[end].space, "NN", "NOUN", words[old].dep, words[old].head, "back")
    if words[old].dep == "ROOT":
        words[end].head = end
    for index, word in enumerate(words):
        if word.head == old and index not in range(start, end + 1):
            word.head = end
    for index in range(start, end):
        _attach(words, index, end, words[start].dep if index == start else "amod")
        words[index].tag = "JJ" if index > start else words[index].tag


def _raise_verb(words: list[Word], verb: int) -> None:
    """Attach "showing" to the image: in "scan of the chest showing a nodule", it is not the chest."""
    above = words[verb].head if words[verb].dep == "pcomp" else words[words[verb].head].head
    if words[above].text == "of" and words[words[above].head].tag in _NOUNS:
        _attach(words, verb, words[above].head, "acl")


def _repair_verb(words: list[Word], verb: int) -> None:
    """Make a word a verb whose subject is before it and whose object the parser took for the noun of both."""
    subject, thing = verb - 1, words[verb].head
    dep, head = words[thing].dep, words[thing].head
    _attach(words, subject, subject if dep == "ROOT" else head, dep)
    for index in range(subject):
        if words[index].head in (verb, thing):
            words[index].head = subject
    _attach(words, verb, subject, "acl")
    words[verb].tag, words[verb].pos, words[verb].lemma = "VBG", "VERB", _SHOWING[words[verb].text]
    _attach(words, thing, verb, "dobj")
    for index in range(thing + 1, len(words)):
        if words[index].head == thing and words[index].tag == ".":
            words[index].head = subject


def _repair_range(words: list[Word], start: int, end: int) -> None:
    """Make the last word of a range its noun; what the parser took for the noun, after "and", is joined to it."""
    noun, far = end - 1, words[start].head
    if words[far].tag not in _NOUNS or words[end].tag != "CC":
        return
    between = words[end + 1 : far]
    if any(word.tag not in _MODIFIERS for word in between):
        return
    dep, head = words[far].dep, words[far].head
    _attach(words, noun, noun if dep == "ROOT" else head, dep)
    _attach(words, far, noun, "conj")
    _attach(words, end, noun, "cc")
    for index in range(start, noun):
        if words[index].head == far or index == start:
            words[index].head = noun
    for index in range(end + 1, far):
        if words[index].head < end:
            _attach(words, index, far, "amod" if words[index].tag.startswith("JJ") else "compound")

"""The noun phrases of a parsed caption, and their contexts."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rtd_plugin.triplets.wording import TONE_MODIFIERS, TONES

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

_INSIDE = ("det", "poss", "nummod", "amod", "compound", "nmod", "punct")
SUBJECT = ("nsubj", "nsubjpass")
INDEFINITE = ("a", "an")


@dataclass(frozen=True)
class NounPhrase:
    """A noun with the words before it, without those after it.

    Attributes:
        head: the noun.
        start, end: the range of its tokens; the end is excluded.
        first: the token after the determiner.
        determiner: "a", "the", "poss", a number word, another determiner, or "".
        core: the words after the determiner, lower case.
        term: the noun with its compounds ("tennis ball"), lower case, the noun as its lemma.
    """

    head: "Token"
    start: int
    first: int
    end: int
    determiner: str
    core: str
    term: str

    @property
    def plural(self) -> bool:
        return self.head.tag_ == "NNS"

    @property
    def noun(self) -> str:
        """The noun's lemma, lower case."""
        return self.head.lemma_.lower()


def find_noun_phrases(doc: "Doc") -> Iterator[NounPhrase]:
    """Yield the noun phrases that are simple enough to be changed safely."""
    for token in doc:
        if token.tag_ in ("NN", "NNS") and token.dep_ != "compound" and token.text.isalpha():
            phrase = _build_phrase(token)
            if phrase is not None:
                yield phrase


def _build_phrase(head: "Token") -> NounPhrase | None:
    left = list(head.lefts)
    if any(token.dep_ not in _INSIDE for token in left):
        return None
    start = left[0].left_edge.i if left else head.i
    inside = head.doc[start : head.i]
    # Only the dependents of the noun, and no quotes.
    if any(not head.is_ancestor(token) or token.is_quote or token.text in ",;:" for token in inside):
        return None
    determiner, first = "", start
    if left and left[0].dep_ in ("det", "poss", "nummod"):
        if left[0].left_edge.i != left[0].i or left[0].n_rights:
            return None
        word = left[0].lower_
        determiner = "poss" if left[0].dep_ == "poss" else "a" if word in INDEFINITE else word
        if left[0].dep_ == "poss" and left[0].tag_ != "PRP$":
            return None
        first = start + 1
    if any(token.dep_ in ("det", "poss", "nummod") and token.i >= first for token in left):
        return None
    words = head.doc[first : head.i + 1]
    core = words.text.lower()
    compounds = [token.lower_ for token in words if token.dep_ == "compound" and token.head == head]
    return NounPhrase(head, start, first, head.i + 1, determiner, core, " ".join([*compounds, head.lemma_.lower()]))


@dataclass(frozen=True)
class Attribute:
    """An adjective before a noun, or a compound such as "light blue".

    Attributes:
        start, last: its first and its last token.
        words: in lower case.
    """

    start: int
    last: "Token"
    words: str


def find_attributes(phrase: NounPhrase) -> Iterator[Attribute]:
    """Yield the attributes of a noun phrase that have no dependents of their own."""
    doc = phrase.head.doc
    for token in phrase.head.lefts:
        before, after = doc[token.i - 1], doc[token.i + 1]
        if token.dep_ != "amod" or (_is_modifier(token, after) and after.dep_ == "amod"):
            continue
        start = token.i - (token.i > phrase.first and _is_modifier(before, token))
        if all(child.i == start for child in token.children):
            yield Attribute(start, token, doc[start : token.i + 1].text.lower())


def _is_modifier(word: "Token", tone: "Token") -> bool:
    """Return whether a word is a part of the tone that follows it: in "light blue" and "medium light"."""
    return word.lower_ in TONE_MODIFIERS and tone.lower_ in TONES and not list(word.children)


def find_governor(head: "Token") -> str | None:
    """Return a noun's relation to the word that governs it, such as "ride >" for an object; None without one."""
    above = head.head
    if head.dep_ in SUBJECT:
        return f"{above.lemma_.lower()} <" if above.pos_ in ("VERB", "AUX") else None
    if head.dep_ == "dobj":
        return f"{above.lemma_.lower()} >"
    if head.dep_ == "pobj" and above.dep_ == "prep":
        return f"{above.head.lemma_.lower()} {above.lower_}"
    if head.dep_ == "conj":
        return find_governor(above) if above.tag_ in ("NN", "NNS") else None
    return None


def find_followers(head: "Token") -> list[str]:
    """Return the modifiers after a noun as contexts ("run <" for a subject, "+with hat"); "?" for an unclear one."""
    followers = []
    for token in head.rights:
        if token.dep_ == "acl" and token.tag_ == "VBG":
            followers.append(f"{token.lemma_.lower()} <")
        elif token.dep_ == "prep":
            followers += [f"+{token.lower_} {child.lemma_.lower()}" for child in token.children if child.dep_ == "pobj"]
        elif token.dep_ in ("cc", "conj", "punct"):
            continue
        else:
            followers.append("?")
    return followers


def find_contexts(head: "Token") -> list[str]:
    """Return all contexts of a noun."""
    above = find_governor(head)
    return ([above] if above else []) + find_followers(head)


def find_subject(verb: "Token") -> "Token | None":
    """Return the noun that is the subject of a verb."""
    if verb.dep_ == "acl":
        return verb.head if verb.head.tag_ in ("NN", "NNS") else None
    return next((token for token in verb.lefts if token.dep_ in SUBJECT and token.tag_ in ("NN", "NNS")), None)


def find_place(preposition: "Token") -> NounPhrase | None:
    """Return the noun phrase after a preposition if nothing else depends on it."""
    children = list(preposition.children)
    if len(children) != 1 or children[0].dep_ != "pobj":
        return None
    return next(
        (phrase for phrase in [_build_phrase(children[0])] if phrase and phrase.start == preposition.i + 1), None
    )


def find_complements(verb: "Token") -> list[str]:
    """Return what follows a verb as contexts of its action; "?" for what another verb may not take."""
    complements = []
    for token in verb.rights:
        if token.dep_ == "prep":
            complements += [
                f"{token.lower_} {child.lemma_.lower()}" for child in token.children if child.dep_ == "pobj"
            ]
        elif token.dep_ != "punct":
            complements.append("?")
    return complements

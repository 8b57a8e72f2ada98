"""Noun phrases of a parsed caption and the contexts they stand in."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

_INSIDE = ("det", "poss", "nummod", "amod", "compound", "nmod", "punct")
SUBJECT = ("nsubj", "nsubjpass")
INDEFINITE = ("a", "an")


@dataclass(frozen=True)
class NounPhrase:
    """A noun with what stands before it, without what follows.

    Attributes:
        head: the noun.
        start, first, end: its tokens, and where the words after the determiner begin; the end excluded.
        determiner: "a", "the", "poss", a number's word, another determiner, or "" for none.
        core: the words after the determiner, lower case.
        term: the noun and nouns before it that belong to it ("tennis ball"), lower case, the noun as its lemma.
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


def noun_phrases(doc: "Doc") -> Iterator[NounPhrase]:
    """The noun phrases that are simple enough to be changed safely."""
    for token in doc:
        if token.tag_ in ("NN", "NNS") and token.dep_ != "compound" and token.text.isalpha():
            phrase = _phrase(token)
            if phrase is not None:
                yield phrase


def _phrase(head: "Token") -> NounPhrase | None:
    left = list(head.lefts)
    if any(token.dep_ not in _INSIDE for token in left):
        return None
    start = left[0].left_edge.i if left else head.i
    inside = head.doc[start : head.i]
    # A phrase holds whole words of its own only: no quotes, no dependents from elsewhere.
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


def governor(head: "Token") -> str | None:
    """How a noun depends on the rest of its sentence, as one string; None where it does not."""
    above = head.head
    if head.dep_ in SUBJECT:
        return f"{above.lemma_.lower()} <" if above.pos_ in ("VERB", "AUX") else None
    if head.dep_ == "dobj":
        return f"{above.lemma_.lower()} >"
    if head.dep_ == "pobj" and above.dep_ == "prep":
        return f"{above.head.lemma_.lower()} {above.lower_}"
    if head.dep_ == "conj":
        return governor(above) if above.tag_ in ("NN", "NNS") else None
    return None


def followers(head: "Token") -> list[str]:
    """What is said of a noun after it, each as the context of a subject or of what it has; "?" for what is unclear."""
    found = []
    for token in head.rights:
        if token.dep_ == "acl" and token.tag_ == "VBG":
            found.append(f"{token.lemma_.lower()} <")
        elif token.dep_ == "prep":
            found += [f"+{token.lower_} {child.lemma_.lower()}" for child in token.children if child.dep_ == "pobj"]
        elif token.dep_ in ("cc", "conj", "punct"):
            continue
        else:
            found.append("?")
    return found


def contexts(head: "Token") -> list[str]:
    """All contexts of a noun."""
    above = governor(head)
    return ([above] if above else []) + followers(head)


def subject_of(verb: "Token") -> "Token | None":
    """The noun that does what a verb says."""
    if verb.dep_ == "acl":
        return verb.head if verb.head.tag_ in ("NN", "NNS") else None
    return next((token for token in verb.lefts if token.dep_ in SUBJECT and token.tag_ in ("NN", "NNS")), None)


def place_of(preposition: "Token") -> "NounPhrase | None":
    """The noun phrase after a preposition, if it is all that follows."""
    children = list(preposition.children)
    if len(children) != 1 or children[0].dep_ != "pobj":
        return None
    return next((phrase for phrase in [_phrase(children[0])] if phrase and phrase.start == preposition.i + 1), None)


def complements(verb: "Token") -> list[str]:
    """What follows a verb, each as a context of an action; "?" for what other verbs cannot be expected to take."""
    found = []
    for token in verb.rights:
        if token.dep_ == "prep":
            found += [f"{token.lower_} {child.lemma_.lower()}" for child in token.children if child.dep_ == "pobj"]
        elif token.dep_ not in ("punct",):
            found.append("?")
    return found

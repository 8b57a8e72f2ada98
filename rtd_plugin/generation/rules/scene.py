"""A parsed caption, the edits that are made to it, and what it reads like after them."""

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

import inflect

from rtd_plugin.generation.rules import words as table
from rtd_plugin.generation.rules.lexicon import Lexicon
from rtd_plugin.generation.rules.phrases import NounPhrase, subject_of

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

Choice = TypeVar("Choice")
Change = tuple[int, int, str]  # tokens from, to (excluded), the text in their place: "" takes them out


@dataclass(frozen=True)
class Edit:
    """One difference between reference and target.

    Attributes:
        kind: which of `phrasings.PATTERNS` can phrase it.
        fields: what these may name.
        anchors: tokens that change or that the wording speaks of; two edits of one caption share none.
        reference, target: changes that turn the caption into either; none leaves it as it is.
    """

    kind: str
    fields: Mapping[str, str]
    anchors: frozenset[int]
    reference: tuple[Change, ...] = ()
    target: tuple[Change, ...] = ()


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PRONOUNS = _words("he she it they him her them his its hers their theirs himself herself itself themselves")
# Each has its own: several would need several of what they wear, hold or ride ("rid" is how the parser spells it).
OWN = _words("wear hold carry have ride rid drive use push pull")
# Captions with such words speak of a number of things in other ways too.
PAIRED = _words("each other both another together one pair")
LOCATIVE = _words("in on at near by under behind beside outside inside through across along over")
STATIC = _words("in on at near by under behind beside outside inside above around")  # where something is, not its way
NEEDS_PLACE = _words("look lean be go come get take put dress cover surround stare point climb rid ride work land")
KEPT_DETERMINERS = frozenset(("a", "the", "", "poss", *table.NUMBERS[1:]))
UNCLEAR = _words("other another first second third fourth several many few some various same different lone single")


@dataclass(frozen=True)
class Scene:
    """A parsed caption as the finders of edits see it."""

    doc: "Doc"
    phrases: Sequence[NounPhrase]
    lexicon: Lexicon
    rng: random.Random

    def is_unique(self, phrase: NounPhrase) -> bool:
        """Whether a phrase can be named by its noun: no other such noun, no pronoun's puzzle."""
        return sum(token.lemma_.lower() == phrase.noun for token in self.doc) == 1

    def is_main(self, phrase: NounPhrase) -> bool:
        """Whether the caption is about this thing."""
        head = phrase.head
        return head.dep_ in ("nsubj", "ROOT", "attr") and (head.head.dep_ == "ROOT" or head.dep_ == "ROOT")

    def indefinite(self, phrase: NounPhrase, core: str | None = None) -> str:
        """A noun phrase, or another core in its place, as something new: "a red hat", "two dogs", "the beach"."""
        core = core or phrase.core
        if phrase.determiner in table.NUMBERS:
            return f"{phrase.determiner} {core}"
        if phrase.plural:
            return core
        article = phrase.determiner if phrase.determiner == "a" else self.lexicon.article(core.split()[-1])
        if article == "the" and core != phrase.core and " " in core:
            article = "" if self.lexicon.is_mass(core.split()[-1]) else "a"  # what is described is new
        return with_article(core) if article == "a" else f"{article} {core}".strip()

    def phrase_of(self, token: "Token | None") -> NounPhrase | None:
        return next((phrase for phrase in self.phrases if token is not None and phrase.head.i == token.i), None)


@lru_cache(maxsize=1)
def _english() -> inflect.engine:
    return inflect.engine()


@lru_cache(maxsize=4096)
def with_article(phrase: str) -> str:
    """A phrase after its indefinite article."""
    return f"{_english().a(phrase).split(maxsplit=1)[0]} {phrase}"


@lru_cache(maxsize=4096)
def plural_of(noun: str) -> str:
    return _english().plural_noun(noun)


def is_sound(doc: "Doc") -> bool:
    """Whether a caption is a plain sentence or phrase that the parser is likely to have understood."""
    if not 4 <= len(doc) <= 40 or any(token.is_quote or token.text in "()[];:/#@&*$" for token in doc):
        return False
    roots = [token for token in doc if token.dep_ == "ROOT"]
    if len(roots) != 1 or roots[0].tag_ not in ("NN", "NNS", "VBG", "VBZ", "VBP"):
        return False
    return not any(token.dep_ in ("dep", "csubj", "ccomp", "parataxis", "intj") for token in doc)


def render(doc: "Doc", changes: Sequence[Change]) -> str:
    """A caption with changes made: articles before changed words agree, white space and capitals stay in order."""
    starts = {start: (end, text) for start, end, text in changes}
    words: list[str] = []
    position = 0
    while position < len(doc):
        if position in starts:
            position, text = starts[position]
            words += text.split()
        else:
            words.append(doc[position].text)
            position += 1
    texts = _spaced(words, doc)
    return texts


def _spaced(words: list[str], doc: "Doc") -> str:
    for number, word in enumerate(words[:-1]):
        if word.lower() in ("a", "an") and words[number + 1].isalpha():
            article = with_article(words[number + 1].lower()).split()[0]
            words[number] = article.capitalize() if word[0].isupper() else article
    while words and words[0] in ",.":
        words.pop(0)
    written = {(a.text, b.text): bool(a.whitespace_) for a, b in itertools.pairwise(doc)}
    text = ""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word in ",." and following in (",", "."):
            continue
        text += word + (" " if written.get((word, following), True) else "")
    text = text.strip()
    return text[:1].upper() + text[1:] if doc.text[:1].isupper() else text


def setting(scene: Scene, phrase: NounPhrase, new: str, old: str) -> dict[str, str]:
    """How a thing stands in its caption: what is done with it or where it is, and who does it."""
    fields: dict[str, str] = {}
    head, above = phrase.head, phrase.head.head
    verb, link = None, ""
    if head.dep_ == "dobj" and above.tag_ == "VBG":
        verb, link = above, above.lower_
    elif head.dep_ == "pobj" and above.dep_ == "prep" and above.head.tag_ == "VBG":
        verb, link = above.head, f"{above.head.lower_} {above.lower_}"
        if above.i != above.head.i + 1:
            verb = None
    elif head.dep_ == "pobj" and above.dep_ == "prep":
        link = above.lower_
    if scene.is_main(phrase):
        fields["main"] = ""
        if not phrase.plural:
            fields["sole"] = ""
        doing = next((token for token in scene.doc if token.tag_ == "VBG" and subject_of(token) == head), None)
        if doing is not None:
            words = _short_clause(doing)
            if words:
                fields["doing"] = words
    if verb is not None or (link and not fields.get("main")):
        if verb is not None:
            fields["doing_new"], fields["doing_old"] = f"{link} {new}", f"{link} {old}"
            fields["link"] = link
            subject = scene.phrase_of(subject_of(verb))
            if subject is not None and scene.is_unique(subject):
                fields["the_subject"] = f"the {subject.head.lower_}"
                fields["subject_is"] = "are" if subject.plural else "is"
        else:
            fields["placed_new"], fields["placed_old"] = f"{link} {new}", f"{link} {old}"
    return fields


def _short_clause(verb: "Token") -> str:
    """A progressive verb with its object or place, if these are short; else the verb alone, if it can stand alone."""
    end = verb.i + 1
    for token in verb.rights:
        if token.dep_ in ("dobj", "prt", "prep") and token.left_edge.i == end:
            edge = token.right_edge.i + 1
            if edge - verb.i > 5:
                break
            end = edge
        else:
            break
    if end == verb.i + 1 and any(token.dep_ in ("dobj", "prt", "xcomp", "ccomp") for token in verb.rights):
        return ""
    return verb.doc[verb.i : end].text.lower()


def span(phrase: NounPhrase) -> frozenset[int]:
    """The numbers of a phrase's tokens."""
    return frozenset(range(phrase.start, phrase.end))


def some(choices: Sequence[Choice], rng: random.Random, most: int) -> list[Choice]:
    """A few different ones of many, frequent ones more likely."""
    if not choices:
        return []
    return list(dict.fromkeys(rng.choice(choices) for _ in range(most)))

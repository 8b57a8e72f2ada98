"""A parsed caption, its edits, and its text after an edit."""

import itertools
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

import inflect

from rtd_plugin.generation.rules.fragments import DETAIL, capitalise_title, is_title
from rtd_plugin.generation.rules.lexicon import PLACES, Lexicon
from rtd_plugin.generation.rules.phrases import NounPhrase, find_subject
from rtd_plugin.generation.rules.word_classes import NUMBERS, make_set
from rtd_plugin.phrasing.conditions import Request

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

Choice = TypeVar("Choice")
Change = tuple[int, int, str]  # replaces the tokens from start to end (excluded) by a text, which may be ""


@dataclass(frozen=True)
class Edit(Request):
    """One difference between reference and target, and the request for it.

    Attributes:
        anchors: tokens that change, or that the condition mentions with words that another edit may change.
        mentions: further tokens that the condition names and that must not change: those of the subject.
        reference, target: the changes that turn the caption into either; () if it is the caption.
        detail: the kind of attribute, or for a noun "thing", "role" or "gender".
    """

    anchors: frozenset[int]
    reference: tuple[Change, ...] = ()
    target: tuple[Change, ...] = ()
    detail: str = ""
    mentions: frozenset[int] = frozenset()

    def goes_with(self, other: "Edit") -> bool:
        """Return whether two edits can be combined: neither changes what the other changes or names."""
        return (
            self.anchors.isdisjoint(other.anchors)
            and self.anchors.isdisjoint(other.mentions)
            and other.anchors.isdisjoint(self.mentions)
        )

    @property
    def label(self) -> str:
        """The name in a build's report: the kind, or the detail of a noun."""
        return self.detail if self.kind == "noun" else self.kind


_MARKS = frozenset(",.;)")
PRONOUNS = make_set("he she it they him her them his its hers their theirs himself herself itself themselves")
# Several subjects need several objects of these verbs ("rid" is a lemma that the parser gives for "riding").
OWN = make_set("wear hold carry have ride rid drive use push pull")
# Captions with these words imply a number of things elsewhere.
PAIRED = make_set("each other both another together one pair")
LOCATIVE = make_set("in on at near by under behind beside outside inside through across along over")
STATIC = make_set("in on at near by under behind beside outside inside above around")  # a location, not a path
NEEDS_PLACE = make_set("look lean be go come get take put dress cover surround stare point climb rid ride work land")
UNNAMED = 0.35  # the share of edits of places, actions and views whose conditions do not name the subject
_NAMES = ("the_subject", "subject", "a_subject")
KEPT_DETERMINERS = frozenset(("a", "the", "", "poss", *NUMBERS[1:]))
UNCLEAR = make_set("""
    multiple scattered other another first second third fourth several many few some various same different lone single
""")


@dataclass(frozen=True)
class Scene:
    """A parsed caption, the input of the functions that find edits.

    Attributes:
        partners: how often a noun had a substitute (noun, True), and how often it had none (noun, False).
    """

    doc: "Doc"
    phrases: Sequence[NounPhrase]
    lexicon: Lexicon
    rng: random.Random
    partners: Counter[tuple[str, bool]] = field(default_factory=Counter)

    def is_unique(self, phrase: NounPhrase) -> bool:
        """Return whether the phrase's noun occurs once in the caption, so that the noun alone identifies it."""
        return sum(token.lemma_.lower() == phrase.noun for token in self.doc) == 1

    def is_main(self, phrase: NounPhrase) -> bool:
        """Return whether the phrase is the subject of the caption."""
        head = phrase.head
        return head.dep_ in ("nsubj", "ROOT", "attr") and (head.head.dep_ == "ROOT" or head.dep_ == "ROOT")

    def to_indefinite(self, phrase: NounPhrase, core: str | None = None) -> str:
        """Return a noun phrase, optionally with another core, as a first mention: "a red hat", "two dogs"."""
        core = core or phrase.core
        if phrase.determiner in NUMBERS:
            return f"{phrase.determiner} {core}"
        if phrase.plural:
            return core
        article = phrase.determiner if phrase.determiner == "a" else self.lexicon.article(core.split()[-1])
        if phrase.is_bare and not self.lexicon.is_mass(core.split()[-1]):
            article = "a"
        if article == "the" and core != phrase.core and " " in core:
            article = "" if self.lexicon.is_mass(core.split()[-1]) else "a"  # an attribute makes it a first mention
        return add_article(core) if article == "a" else f"{article} {core}".strip()

    def find_phrase(self, token: "Token | None") -> NounPhrase | None:
        """Return the noun phrase whose head is a token."""
        return next((phrase for phrase in self.phrases if token is not None and phrase.head.i == token.i), None)


@lru_cache(maxsize=1)
def _load_inflect() -> inflect.engine:
    return inflect.engine()


@lru_cache(maxsize=4096)
def add_article(phrase: str) -> str:
    """Return a phrase with its indefinite article."""
    return f"{_load_inflect().a(phrase).split(maxsplit=1)[0]} {phrase}"


@lru_cache(maxsize=4096)
def to_plural(noun: str) -> str:
    """Return the plural of a noun."""
    return _load_inflect().plural_noun(noun)


@lru_cache(maxsize=4096)
def to_participle(clause: str) -> str:
    """Return a clause that begins with a verb in the present tense with the verb's progressive form instead."""
    verb, *rest = clause.split(" ")
    return (
        clause
        if verb.endswith("ing") and len(verb) > 4
        else " ".join([_load_inflect().present_participle(verb), *rest])
    )


def to_third_person(verb: str) -> str:
    """Return the third person singular of a verb in the present tense."""
    if verb.endswith(("s", "x", "z", "ch", "sh", "o")):
        return f"{verb}es"
    return f"{verb[:-1]}ies" if re.search("[^aeiou]y$", verb) else f"{verb}s"


def is_sound(doc: "Doc") -> bool:
    """Return whether a caption is a plain sentence or phrase that the parser probably understood."""
    body = [token for token in doc if token.dep_ != DETAIL]
    if not 4 <= len(doc) <= 40 or any(token.is_quote or token.text in "()[];:/#@&*$" for token in body):
        return False
    roots = [token for token in doc if token.dep_ == "ROOT"]
    if len(roots) != 1 or roots[0].tag_ not in ("NN", "NNS", "VBG", "VBZ", "VBP"):
        return False
    return not any(token.dep_ in ("dep", "csubj", "ccomp", "parataxis", "intj") for token in doc)


def render(doc: "Doc", changes: Sequence[Change]) -> str:
    """Return a caption with changes applied; articles, white space and the first capital are adjusted."""
    starts = {start: (end, text) for start, end, text in changes}
    words: list[str] = []
    position = 0
    while position < len(doc):
        if position in starts:
            position, text = starts[position]
            words += (capitalise_title(text) if is_title(doc.text) else text).split()
        else:
            words.append(doc[position].text)
            position += 1
    return _join_words(words, doc)


def _join_words(words: list[str], doc: "Doc") -> str:
    for index, word in enumerate(words[:-1]):
        if word.lower() in ("a", "an") and words[index + 1].replace("-", "").isalpha():
            article = add_article(words[index + 1].lower()).split()[0]
            words[index] = article.capitalize() if word[0].isupper() else article
    while words and words[0] in ",.":
        words.pop(0)
    spaces = {(first.text, second.text): bool(first.whitespace_) for first, second in itertools.pairwise(doc)}
    before_marks = {second.text: bool(first.whitespace_) for first, second in itertools.pairwise(doc)}
    text = ""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word in ",." and following in (",", "."):
            continue
        is_spaced = before_marks.get(following, True) if following in _MARKS else True
        text += word + (" " if spaces.get((word, following), is_spaced) else "")
    text = text.strip()
    return text[:1].upper() + text[1:] if doc.text[:1].isupper() else text


def describe_role(scene: Scene, phrase: NounPhrase) -> dict[str, str]:
    """Return the field `main` if the caption is about a phrase, and `sole` if it is about nothing else."""
    if not scene.is_main(phrase):
        return {}
    return {"main": ""} if phrase.plural else {"main": "", "sole": ""}


def describe_subject(scene: Scene, phrase: NounPhrase) -> dict[str, str]:
    """Return the fields that name a subject, and `single` if it is one."""
    fields = {
        "the_subject": f"the {phrase.head.lower_}",
        "subject": phrase.head.lower_,
        "a_subject": scene.to_indefinite(phrase, phrase.head.lower_),
        **describe_role(scene, phrase),
    }
    return fields if phrase.plural else fields | {"single": ""}


def mention_subject(scene: Scene, fields: dict[str, str], subject: NounPhrase) -> tuple[dict[str, str], frozenset[int]]:
    """Return fields, with those that name the subject or, at random, without, and the token that they name.

    An edit that does not name the subject can be combined with one that exchanges it.
    """
    if scene.rng.random() < UNNAMED:
        return {name: value for name, value in fields.items() if name not in _NAMES}, frozenset()
    return fields, frozenset([subject.head.i])


def describe_setting(scene: Scene, phrase: NounPhrase, new: str, old: str) -> dict[str, str]:
    """Return the fields for a thing's role in its caption: the action with it or its location, and the subject.

    Args:
        new, old: the thing after and before the edit, as a first mention.
    """
    fields = describe_role(scene, phrase)
    head, above = phrase.head, phrase.head.head
    verb, link = None, ""
    if head.dep_ == "dobj" and above.tag_ == "VBG":
        verb, link = above, above.lower_
    elif head.dep_ == "pobj" and above.dep_ == "prep" and above.head.tag_ == "VBG":
        verb, link = above.head, f"{above.head.lower_} {above.lower_}"
        if above.i != above.head.i + 1:
            verb = None
    elif head.dep_ == "pobj" and above.dep_ == "prep" and above.lower_ in PLACES:
        link = above.lower_
    if scene.is_main(phrase):
        doing = next((token for token in scene.doc if token.tag_ == "VBG" and find_subject(token) == head), None)
        if doing is not None:
            clause = _find_short_clause(doing)
            if clause:
                fields["doing"] = clause
    if link:
        if verb is not None:
            fields["doing_new"], fields["doing_old"] = f"{link} {new}", f"{link} {old}"
            fields["link"] = link
            subject = scene.find_phrase(find_subject(verb))
            if subject is not None and scene.is_unique(subject):
                fields["the_subject"] = f"the {subject.head.lower_}"
                fields["subject_is"] = "are" if subject.plural else "is"
        else:
            fields["placed_new"], fields["placed_old"] = f"{link} {new}", f"{link} {old}"
    return fields


def _find_short_clause(verb: "Token") -> str:
    """Return a progressive verb with a short object or place, or the verb alone; "" if it needs a long object."""
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


def token_span(phrase: NounPhrase) -> frozenset[int]:
    """Return the indices of a phrase's tokens."""
    return frozenset(range(phrase.start, phrase.end))


def choose_some(choices: Sequence[Choice], rng: random.Random, draws: int) -> list[Choice]:
    """Draw with replacement, and return the distinct choices drawn: frequent ones are more likely."""
    if not choices:
        return []
    return list(dict.fromkeys(rng.choice(choices) for _ in range(draws)))

"""What captions hold: nouns, attributes, places and actions, what goes with what, and what is similar to what."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from rtd_plugin.generation.rules.phrases import NounPhrase, complements, contexts, noun_phrases, place_of, subject_of
from rtd_plugin.generation.rules.words import FIXED, NUMBERS, PEOPLE, may_be_same, may_be_same_action, other_values

if TYPE_CHECKING:
    from spacy.tokens import Doc

Embed = Callable[[Sequence[str]], np.ndarray]  # words to rows of unit length

KINDS_OF_TAGS = {
    "NN": "noun",
    "NNS": "noun",
    "VBG": "verb",
    "VBZ": "verb",
    "VBP": "verb",
    "VB": "verb",
    "JJ": "adjective",
}
COMMON = 5  # a word is used as a substitute from so many occurrences on
RARELY = 0.01  # of a noun's occurrences are in a context: that may be the parser's mistake
SURE = 0.8  # of a word's occurrences are tagged alike, or its tags are not trusted
MOST_CONTEXTS = 4000
POSSESSIVES = frozenset(["my", "your", "his", "her", "its", "our", "their"])
# Prepositions of place; those of one number mean nearly the same.
RELATIONS = {
    "on": 0,
    "under": 1,
    "behind": 2,
    "near": 3,
    "by": 3,
    "beside": 3,
    "inside": 4,
    "outside": 5,
    "above": 6,
    "around": 7,
}
PLACES = frozenset((*RELATIONS, "in", "at", "through", "across", "along", "over", "down"))
LIFT = 4.0  # two nouns that so often stand for each other in captions of one image are one thing


@dataclass
class Counts:
    """What is counted in a part of the captions; parts add up.

    Attributes:
        tags: (form, "noun" | "verb" | "adjective" | "other").
        phrases: (term, plural, determiner) to the phrases' cores.
        nouns: (noun's term, context).
        attributes: (attribute, noun).
        places: (verb, preposition, place's noun) to the whole phrase.
        actions: (progressive form, context), the context a subject, a place or an adverb.
        images: nouns by the number of images with it; exchanged: pairs of nouns that stood for each other in two
            captions of one image.
    """

    tags: Counter[tuple[str, str]] = field(default_factory=Counter)
    phrases: dict[tuple[str, bool, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    nouns: Counter[tuple[str, str]] = field(default_factory=Counter)
    attributes: Counter[tuple[str, str]] = field(default_factory=Counter)
    places: dict[tuple[str, str, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    actions: Counter[tuple[str, str]] = field(default_factory=Counter)
    images: Counter[str] = field(default_factory=Counter)
    exchanged: Counter[tuple[str, str]] = field(default_factory=Counter)
    groups: int = 0

    def add(self, other: "Counts") -> None:
        for name in ("tags", "nouns", "attributes", "actions", "images", "exchanged"):
            getattr(self, name).update(getattr(other, name))
        for name in ("phrases", "places"):
            for key, counter in getattr(other, name).items():
                getattr(self, name)[key].update(counter)
        self.groups += other.groups


def count(docs: Sequence["Doc"], groups: Sequence[str | None]) -> Counts:
    """Count parsed captions.

    Args:
        docs: the captions.
        groups: one a caption: equal for captions of one image, None where that is not known.
    """
    counts = Counts()
    images: dict[str, list[set[str]]] = {}
    for doc, group in zip(docs, groups, strict=True):
        nouns = set()
        for token in doc:
            counts.tags[token.lower_, KINDS_OF_TAGS.get(token.tag_, "other")] += 1
            if token.tag_ in ("NN", "NNS"):
                nouns.add(token.lemma_.lower())
            if token.tag_ == "VBG":
                _count_action(token, counts)
        for phrase in noun_phrases(doc):
            counts.phrases[phrase.term, phrase.plural, phrase.determiner][phrase.core] += 1
            counts.nouns.update((phrase.term, context) for context in contexts(phrase.head))
            for token in phrase.head.lefts:
                if token.dep_ == "amod":
                    counts.attributes[token.lower_, phrase.noun] += 1
        for token in doc:
            if token.dep_ == "prep" and token.head.pos_ == "VERB" and (place := place_of(token)):
                text = doc[token.i : place.end].text.lower()
                counts.places[token.head.lemma_.lower(), token.lower_, place.noun][text] += 1
        if group is not None:
            images.setdefault(group, []).append(nouns)
    for captions in images.values():
        counts.groups += 1
        counts.images.update(set().union(*captions))
        counts.exchanged.update(
            {(a, b) for one, two in product(captions, captions) for a in one - two for b in two - one}
        )
    return counts


def _count_action(verb, counts: Counts) -> None:
    if any(token.dep_ in ("dobj", "prt", "xcomp", "ccomp") for token in verb.rights):
        return
    subject = subject_of(verb)
    if subject is not None:
        counts.actions[verb.lower_, f"{subject.lemma_.lower()} <"] += 1
    counts.actions.update((verb.lower_, context) for context in complements(verb))


class Lexicon:
    """What the captions offer instead of a word.

    Args:
        counts: of all captions.
        embed: words to vectors whose cosine says how similar they are; None compares the company that words keep in the
            captions.
    """

    def __init__(self, counts: Counts, embed: Embed | None = None) -> None:
        self.counts = counts
        total: Counter[str] = Counter()
        self._plurals: Counter[str] = Counter()
        for (term, is_plural, _), cores in counts.phrases.items():
            total[term] += sum(cores.values())
            self._plurals[term] += is_plural * sum(cores.values())
        self._terms = total
        self._nouns_in: dict[str, set[str]] = defaultdict(set)
        for (term, context), number in counts.nouns.items():
            if number > 1 and number > RARELY * total[term]:
                self._nouns_in[context].add(term)
        self._actions_in: dict[str, set[str]] = defaultdict(set)
        for (verb, context), number in counts.actions.items():
            if number > 1:
                self._actions_in[context].add(verb)
        self._places_of: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
        for (verb, preposition, noun), texts in counts.places.items():
            for text, number in texts.items():
                if number > 2 and not POSSESSIVES & set(text.split()):
                    self._places_of[verb].append((preposition, noun, text))
        self._stands: Counter[tuple[str, str]] = Counter()
        for (_, preposition, noun), texts in counts.places.items():
            self._stands[preposition, noun] += sum(texts.values())
        uses = Counter()
        for (word, _kind), number in counts.tags.items():
            uses[word] += number
        self._uses = uses
        self.things = Similarity(_company(counts.nouns, self._terms), embed)
        actions = Counter(verb for verb, _ in counts.actions.elements())
        self.actions = Similarity(_company(counts.actions, actions), embed, low=0.9)

    def is_sure(self, form: str, kind: str) -> bool:
        """Whether nearly all occurrences of a form are tagged as nouns (or verbs, adjectives)."""
        return self._uses[form] >= COMMON and self.counts.tags[form, kind] >= SURE * self._uses[form]

    def substitutes(self, phrase: "NounPhrase", places: Sequence[str]) -> list[str]:
        """Cores of other nouns for a noun phrase, each as often as the captions have it.

        Another noun qualifies if the captions have it in the same number, after the same determiner, and in every one
        of `places`, the contexts it would stand in; if it cannot be the same thing; and if it is similar.
        """
        if not places or phrase.term not in self.things.number or "?" in places:
            return []
        terms = set.intersection(*(self._nouns_in.get(place, set()) for place in places))
        found: list[str] = []
        for term in sorted(terms):
            noun = term.split()[-1]
            if self._terms[term] < COMMON or noun in FIXED or self.same_thing(phrase.noun, noun):
                continue
            if (noun in PEOPLE) != (phrase.noun in PEOPLE) or self.takes_no_article(term) != self.takes_no_article(
                phrase.term
            ):
                continue
            if not self.things.in_band(phrase.term, term):
                continue
            if phrase.plural and self._always_plural(term) != self._always_plural(phrase.term):
                continue
            cores = self.counts.phrases.get((term, phrase.plural, phrase.determiner), {})
            if sum(cores.values()) < 0.05 * self._terms[term]:
                continue
            found += [core for core, number in sorted(cores.items()) if number > 1 and self._is_plain(core)]
        return found

    def takes_no_article(self, term: str) -> bool:
        """Whether a noun in the singular mostly stands alone, as "water" does."""
        return self.article(term) == ""

    def _always_plural(self, term: str) -> bool:
        """Whether a noun is one thing in the plural, as trousers are."""
        return self._plurals[term] > SURE * self._terms[term]

    def article(self, term: str) -> str:
        """What a noun in the singular mostly has before it: "a", "the" or ""."""
        counts = {d: sum(self.counts.phrases.get((term, False, d), {}).values()) for d in ("a", "the", "")}
        return max(counts, key=lambda determiner: counts[determiner])

    def is_mass(self, term: str) -> bool:
        """Whether a noun in the singular stands alone more often than after "a"."""
        alone, counted = (sum(self.counts.phrases.get((term, False, d), {}).values()) for d in ("", "a"))
        return alone > counted

    def is_counted(self, term: str) -> bool:
        """Whether the captions have a noun after a number."""
        return any(self.counts.phrases.get((term, True, number)) for number in NUMBERS[1:4])

    def _is_plain(self, core: str) -> bool:
        *looks, _ = words = core.split()
        if any(look.endswith("ing") for look in looks):  # what it does might contradict the rest of a caption
            return False
        return len(words) <= 3 and all(word.isalpha() for word in words) and self.is_sure(words[-1], "noun")

    def same_thing(self, one: str, other: str) -> bool:
        """Whether two nouns may name one thing: by what they mean, or as captions of one image exchange them."""
        if may_be_same(one, other):
            return True
        images = self.counts.images
        often = self.counts.exchanged[one, other]
        return often > 2 and often * self.counts.groups > LIFT * images[one] * images[other]

    def values(self, attribute: str, noun: str) -> list[str]:
        """Other values of an attribute that the captions give to a noun."""
        known = self.counts.attributes
        return sorted(word for word in other_values(attribute) if known[word, noun] > 1)

    def places(self, verb: str, noun: str) -> list[tuple[str, str]]:
        """Other places for an action: (preposition, phrase) with a noun similar to the one it has."""
        return [
            (preposition, text)
            for preposition, other, text in self._places_of.get(verb, ())
            if preposition in PLACES
            and other not in FIXED
            and not self.same_thing(noun, other)
            and self.things.in_band(noun, other)
        ]

    def relations(self, preposition: str, noun: str) -> list[str]:
        """Prepositions that the captions have before a noun and that put things elsewhere."""
        group = RELATIONS.get(preposition)
        return sorted(
            other
            for other, its_group in RELATIONS.items()
            if group is not None and group != its_group and self._stands[other, noun] > 2
        )

    def other_actions(self, action: str, places: Sequence[str]) -> list[str]:
        """Other actions that the captions have with the same subject and the same place."""
        verbs = set.intersection(*(self._actions_in.get(place, set()) for place in places))
        return sorted(
            verb
            for verb in verbs
            if not may_be_same_action(action, verb)
            and self.is_sure(verb, "verb")
            and self.actions.in_band(action, verb)
        )


class Similarity:
    """How similar words are, and which are similar but not the same.

    The band is chosen by the data: its lower and upper end are quantiles of the cosines of all pairs of words.

    Args:
        company: words to what they were seen with, and how often.
        embed: makes vectors of the words instead.
        low, high: the quantiles.
    """

    def __init__(
        self,
        company: Mapping[str, Mapping[str, int]],
        embed: Embed | None,
        low: float = 0.985,
        high: float = 0.9998,
    ) -> None:
        words = sorted(company)
        self.number = {word: number for number, word in enumerate(words)}
        self._vectors = embed(words) if embed is not None and words else _ppmi(company, words)
        self._cosines: dict[str, np.ndarray] = {}
        self.band = self._band(low, high)

    def _band(self, *ends: float) -> tuple[float, float]:
        if len(self.number) < 3:
            return -1.0, 1.0
        step = max(1, len(self.number) // 1000)
        sample = self._vectors[::step]
        cosines = (sample @ sample.T)[np.triu_indices(len(sample), 1)]
        low, high = np.quantile(cosines, ends)
        return float(low), float(high)

    def cosine(self, one: str, other: str) -> float:
        """The cosine of two known words."""
        if one not in self._cosines:
            self._cosines[one] = self._vectors @ self._vectors[self.number[one]]
        return float(self._cosines[one][self.number[other]])

    def in_band(self, one: str, other: str) -> bool:
        """Whether two words are known, and similar but not the same."""
        if one not in self.number or other not in self.number:
            return False
        low, high = self.band
        return low <= self.cosine(one, other) <= high


def _company(pairs: Mapping[tuple[str, str], int], totals: Mapping[str, int]) -> dict[str, dict[str, int]]:
    company: dict[str, dict[str, int]] = defaultdict(dict)
    for (word, context), number in sorted(pairs.items()):
        if totals[word] >= COMMON and context != "?":
            company[word][context] = number
    return company


def _ppmi(company: Mapping[str, Mapping[str, int]], words: Sequence[str]) -> np.ndarray:
    """Positive pointwise mutual information of words and contexts, rows of unit length: (words, contexts) float32."""
    spread = Counter(context for word in words for context in company[word])
    contexts = {context: number for number, (context, _) in enumerate(spread.most_common(MOST_CONTEXTS))}
    table = np.zeros((len(words), max(1, len(contexts))), np.float32)
    for row, word in enumerate(words):
        for context, number in company[word].items():
            if context in contexts:
                table[row, contexts[context]] = number
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / max(table.sum(), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.nan_to_num(np.maximum(np.log(table / expected), 0), posinf=0)
    return information / np.maximum(np.linalg.norm(information, axis=1, keepdims=True), 1e-9)

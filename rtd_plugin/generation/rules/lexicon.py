"""Statistics of captions: their nouns, attributes, places and actions, the contexts of each, and what is similar."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from rtd_plugin.generation.rules.activities import find_activity
from rtd_plugin.generation.rules.attributes import Attribute, find_attributes, list_kinds
from rtd_plugin.generation.rules.fragments import find_value, lower_title
from rtd_plugin.generation.rules.measures import Measure
from rtd_plugin.generation.rules.phrases import (
    NounPhrase,
    find_complements,
    find_contexts,
    find_noun_phrases,
    find_place,
    find_subject,
)
from rtd_plugin.generation.rules.word_classes import (
    FIXED,
    GENERAL,
    NUMBERS,
    PEOPLE,
    find_other_values,
    may_be_same_action,
    may_be_same_thing,
)

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

Embed = Callable[[Sequence[str]], np.ndarray]  # N words to (N, D) rows of unit length

WORD_CLASSES = {
    "NN": "noun",
    "NNS": "noun",
    "VBG": "verb",
    "VBZ": "verb",
    "VBP": "verb",
    "VB": "verb",
    "JJ": "adjective",
}
COMMON = 5  # occurrences that make a word a substitute, in as many captions as
MANY = 1000  # these; in fewer, proportionally fewer
BARE = "bare"  # the determiner of a singular noun without one in a title or at the start of a caption
RARE = 0.01  # a smaller share of a noun's occurrences in a context may be an error of the parser
SURE = 0.8  # a word's tag is trusted if at least this share of its occurrences has it
MAX_ACTIVITIES = 500  # of one subject
MAX_CONTEXTS = 4000  # columns of the table of words and contexts
POSSESSIVES = frozenset(["my", "your", "his", "her", "its", "our", "their"])
# Prepositions of place; those with the same value mean nearly the same.
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
NEAREST = 20  # similar words that may replace one, at least
LARGE = 100  # words of a vocabulary in which some pairs count as names of one thing:
SAME = 0.9998  # those with a cosine above this quantile
PART = 0.25  # a smaller share of a noun's occurrences as the noun of a phrase makes it a part of names
LIFT = 4.0  # nouns that replace each other in captions of one image this much more often than by chance are one thing


@dataclass
class Counts:
    """Counts over some captions; those of several chunks add up.

    Attributes:
        tags: occurrences of (form, "noun" | "verb" | "adjective" | "other").
        phrases: (term, plural, determiner) to occurrences of each core.
        nouns: occurrences of (term, context).
        attributes: occurrences of (attribute, noun).
        places: (verb, preposition, noun) to occurrences of each whole phrase.
        actions: occurrences of (progressive form, context), the context a subject, a place or an adverb.
        activities: (subject, form of the verb) to occurrences of all that a caption says of the subject.
        images: the number of images with each noun.
        exchanged: pairs of nouns that replace each other in two captions of one image.
        groups: the number of images.
        cores: (term, context) to the cores that the term has there, in few captions.
        measures: occurrences of measures.
        captions: the number of captions.
    """

    tags: Counter[tuple[str, str]] = field(default_factory=Counter)
    phrases: dict[tuple[str, bool, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    nouns: Counter[tuple[str, str]] = field(default_factory=Counter)
    attributes: Counter[tuple[str, str]] = field(default_factory=Counter)
    places: dict[tuple[str, str, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    actions: Counter[tuple[str, str]] = field(default_factory=Counter)
    activities: dict[tuple[str, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    images: Counter[str] = field(default_factory=Counter)
    exchanged: Counter[tuple[str, str]] = field(default_factory=Counter)
    groups: int = 0
    cores: dict[tuple[str, str], set[str]] = field(default_factory=lambda: defaultdict(set))
    measures: Counter[Measure] = field(default_factory=Counter)
    captions: int = 0

    def add(self, other: "Counts") -> None:
        """Add the counts of other captions."""
        for name in ("tags", "nouns", "attributes", "actions", "images", "exchanged", "measures"):
            getattr(self, name).update(getattr(other, name))
        for name in ("phrases", "places", "activities"):
            for key, counter in getattr(other, name).items():
                getattr(self, name)[key].update(counter)
        self.groups += other.groups
        self.captions += other.captions
        if self.captions < MANY:
            for pair, cores in other.cores.items():
                self.cores[pair] |= cores
        else:
            self.cores.clear()


def count_words(docs: Sequence["Doc"], groups: Sequence[str | None]) -> Counts:
    """Count the words of parsed captions.

    Args:
        docs: N captions.
        groups: N names of images, equal for captions of one image; None if it is unknown.
    """
    counts = Counts()
    images: dict[str, list[set[str]]] = {}
    for doc, group in zip(docs, groups, strict=True):
        nouns: set[str] = set()
        for token in doc:
            counts.tags[token.lower_, WORD_CLASSES.get(token.tag_, "other")] += 1
            if token.tag_ in ("NN", "NNS"):
                nouns.add(token.lemma_.lower())
            if token.tag_ == "VBG":
                _count_action(token, counts)
        for phrase in find_noun_phrases(doc):
            if phrase.is_negated:
                counts.phrases[phrase.term, phrase.plural, "no"][phrase.core] += 1
                continue
            determiner = BARE if phrase.is_bare else phrase.determiner
            counts.phrases[phrase.term, phrase.plural, determiner][phrase.core] += 1
            for context in find_contexts(phrase.head):
                counts.nouns[phrase.term, context] += 1
                counts.cores[phrase.term, context].add(phrase.core)
            for attribute in find_attributes(phrase):
                if attribute.measure:
                    counts.measures[attribute.measure] += 1
                else:
                    counts.attributes[attribute.words, phrase.noun] += 1
        counts.captions += 1
        for token in doc:
            if token.dep_ == "prep" and token.head.pos_ == "VERB" and (place := find_place(token)):
                text = doc[token.i : place.end].text.lower()
                counts.places[token.head.lemma_.lower(), token.lower_, place.noun][text] += 1
        if (found := find_activity(doc)) is not None:
            activity = found[1]
            text = doc[activity.start : activity.end].text.lower()
            counts.activities[activity.subject, activity.form][text] += 1
        if group is not None:
            images.setdefault(group, []).append(nouns)
    for captions in images.values():
        counts.groups += 1
        counts.images.update(set().union(*captions))
        counts.exchanged.update(
            {(a, b) for first, second in product(captions, captions) for a in first - second for b in second - first}
        )
    return counts


def _count_action(verb: "Token", counts: Counts) -> None:
    if any(token.dep_ in ("dobj", "prt", "xcomp", "ccomp") for token in verb.rights):
        return
    subject = find_subject(verb)
    if subject is not None:
        counts.actions[verb.lower_, f"{subject.lemma_.lower()} <"] += 1
    counts.actions.update((verb.lower_, context) for context in find_complements(verb))


class Lexicon:
    """Finds substitutes for words in the captions.

    Args:
        counts: of all captions.
        embed: maps words to vectors whose cosine is their similarity; None compares the contexts of words.

    Attributes:
        things, actions: the similarity of nouns, and of verbs.
    """

    def __init__(self, counts: Counts, embed: Embed | None = None) -> None:
        self.counts = counts
        self._common = max(1, min(COMMON, COMMON * counts.captions // MANY))
        total: Counter[str] = Counter()
        self._plurals: Counter[str] = Counter()
        for (term, is_plural, _), cores in counts.phrases.items():
            total[term] += sum(cores.values())
            self._plurals[term] += is_plural * sum(cores.values())
        self._terms = total
        self._nouns_in: dict[str, set[str]] = defaultdict(set)
        for (term, context), count in counts.nouns.items():
            if count >= min(2, self._common) and count > RARE * total[term]:
                self._nouns_in[context].add(term)
        self._actions_in: dict[str, set[str]] = defaultdict(set)
        for (verb, context), count in counts.actions.items():
            if count >= min(2, self._common):
                self._actions_in[context].add(verb)
        self._places_of: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
        for (verb, preposition, noun), texts in counts.places.items():
            for text, count in texts.items():
                if count >= min(3, self._common) and not POSSESSIVES & set(text.split()):
                    self._places_of[verb].append((preposition, noun, text))
        self._attributed: Counter[str] = Counter()
        for (_, noun), count in counts.attributes.items():
            self._attributed[noun] += count
        self._attributes_of: dict[str, list[str]] = defaultdict(list)
        self._attributes_of_any: set[str] = set()
        for (words, noun), count in counts.attributes.items():
            if count >= min(2, self._common) and count > RARE * self._attributed[noun]:
                self._attributes_of[noun].append(words)
                self._attributes_of_any.add(words)
        self._relations: Counter[tuple[str, str]] = Counter()
        for (_, preposition, noun), texts in counts.places.items():
            self._relations[preposition, noun] += sum(texts.values())
        self._activities: dict[tuple[str, str], list[str]] = {}
        self._heads: Counter[str] = Counter()  # occurrences of a form as the noun of a phrase
        for cores in counts.phrases.values():
            for core, count in cores.items():
                self._heads[core.split()[-1]] += count
        self._uses: Counter[str] = Counter()
        for (word, _), count in counts.tags.items():
            self._uses[word] += count
        self._kinds_of: dict[str, list[str]] = defaultdict(list)
        for term in sorted(total):
            if " " in term and total[term] >= min(3, self._common):
                self._kinds_of[term.split()[-1]].append(term)
        self.things = Similarity(_group_contexts(counts.nouns, self._terms, self._common), embed)
        actions = Counter(verb for verb, _ in counts.actions.elements())
        self.actions = Similarity(_group_contexts(counts.actions, actions, self._common), embed, share=0.1)

    def find_activities(self, subject: str, form: str) -> list[str]:
        """Return what the captions say of a subject, the verb in a form; of many texts a fixed sample."""
        if (subject, form) not in self._activities:
            texts = sorted(self.counts.activities.get((subject, form), ()))
            self._activities[subject, form] = texts[:: math.ceil(len(texts) / MAX_ACTIVITIES)] if texts else []
        return self._activities[subject, form]

    def is_sure(self, form: str, word_class: str) -> bool:
        """Return whether nearly all occurrences of a form are of a class: "noun", "verb" or "adjective"."""
        return self._uses[form] >= self._common and self.counts.tags[form, word_class] >= SURE * self._uses[form]

    def is_part_of_names(self, form: str) -> bool:
        """Return whether a noun mostly stands before another one, such as "life" in "life vest"."""
        return self._heads[form] < PART * self.counts.tags[form, "noun"]

    def find_substitutes(self, phrase: "NounPhrase", contexts: Sequence[str]) -> list[str]:
        """Return cores of other nouns for a noun phrase.

        The captions have such a noun in the same number, after the same determiner and in all of `contexts`; it is
        similar, and cannot be the same thing.
        """
        if not contexts or phrase.term not in self.things.index or "?" in contexts:
            return []
        terms = set.intersection(*(self._nouns_in.get(context, set()) for context in contexts))
        substitutes: list[str] = []
        for term in sorted(terms):
            noun = term.split()[-1]
            if self._terms[term] < self._common or noun in FIXED or self.may_name_same_thing(phrase.noun, noun):
                continue
            if (noun in PEOPLE) != (phrase.noun in PEOPLE) or self.takes_no_article(term) != self.takes_no_article(
                phrase.term
            ):
                continue
            if not self.things.are_similar(phrase.term, term):
                continue
            if phrase.plural and self._always_plural(term) != self._always_plural(phrase.term):
                continue
            cores = self._list_cores(term, phrase)
            if sum(cores.values()) < 0.05 * self._terms[term]:
                continue
            least = min(2, self._common)
            found = [core for core, count in sorted(cores.items()) if count >= least and self._is_plain(core)]
            if self._common < COMMON:  # words of a rare noun may suit one of its contexts only
                known = set.intersection(*(self.counts.cores.get((term, context), set()) for context in contexts))
                found = [core for core in found if core in known]
            substitutes += found
        return substitutes

    def _list_cores(self, term: str, phrase: "NounPhrase") -> Counter[str]:
        """Return the cores of a term after the same determiner; an article may be missing for brevity."""
        determiners = ("a", BARE) if phrase.is_bare or phrase.determiner == "a" else (phrase.determiner,)
        cores: Counter[str] = Counter()
        for determiner in determiners:
            cores += self.counts.phrases.get((term, phrase.plural, determiner), Counter())
        return cores

    def find_kinds(self, phrase: "NounPhrase") -> list[str]:
        """Return other terms with the same noun: "work boot" for "hiking boot"."""
        if " " not in phrase.term:
            return []
        name = phrase.term.split()[:-1]
        contexts = find_contexts(phrase.head)
        if "^" not in contexts:
            contexts = [context for context in contexts if context.startswith("+of ")]
        exchanged = self.counts.exchanged
        return [
            term
            for term in self._kinds_of[phrase.noun]
            if all(term in self._nouns_in.get(context, ()) for context in contexts)
            and not {*name} & {*term.split()[:-1]}
            and not any(exchanged[a, b] for a in name for b in term.split()[:-1])
        ]

    def takes_no_article(self, term: str) -> bool:
        """Return whether a singular noun mostly has no determiner, such as "water"."""
        return self.article(term) == ""

    def _always_plural(self, term: str) -> bool:
        """Return whether a noun is nearly always plural, such as "trousers"."""
        return self._plurals[term] > SURE * self._terms[term]

    def article(self, term: str) -> str:
        """Return the most frequent determiner of a singular noun: "a", "the" or ""."""
        counts = {d: sum(self.counts.phrases.get((term, False, d), {}).values()) for d in ("a", "the", "")}
        if not any(counts.values()) and term.endswith("ing"):
            return ""
        return max(counts, key=lambda determiner: counts[determiner])

    def is_mass(self, term: str) -> bool:
        """Return whether a singular noun has no determiner more often than "a"."""
        alone, counted = (sum(self.counts.phrases.get((term, False, d), {}).values()) for d in ("", "a"))
        return alone > counted

    def is_denied(self, term: str) -> bool:
        """Return whether captions say that there is "no" such thing."""
        return any(self.counts.phrases.get((term, plural, "no")) for plural in (False, True))

    def may_take_article(self, term: str) -> bool:
        """Return whether the captions have a singular noun after "a"; few captions may lack it."""
        return self._common < COMMON or bool(self.counts.phrases.get((term, False, "a")))

    def is_countable(self, term: str) -> bool:
        """Return whether the captions have a noun after a number."""
        return any(self.counts.phrases.get((term, True, word)) for word in NUMBERS[1:4])

    def _is_plain(self, core: str) -> bool:
        *modifiers, _ = words = core.split()
        if any(word.endswith("ing") for word in modifiers):  # an action might contradict the rest of a caption
            return False
        is_word = all(word.replace("-", "").isalpha() for word in words)
        return len(words) <= 3 and is_word and self.is_sure(words[-1], "noun")

    def may_name_same_thing(self, first: str, second: str) -> bool:
        """Return whether two nouns may name one thing, by meaning or because captions of one image exchange them."""
        if may_be_same_thing(first, second):
            return True
        images = self.counts.images
        count = self.counts.exchanged[first, second]
        return count > 2 and count * self.counts.groups > LIFT * images[first] * images[second]

    def find_values(self, attribute: Attribute, noun: str) -> dict[str, str]:
        """Return other values of an attribute that the captions give to a noun, each with the attribute's kind.

        A compound has the kind and the value of its last word. If few captions give a noun no other value, those of
        any noun count for kinds that suit most things. Measures of one kind may replace each other if they are near.
        """
        if attribute.measure:
            near = (measure for measure in self.counts.measures if attribute.measure.is_near(measure))
            return {lower_title(measure.text): "measure" for measure in sorted(near)}
        kinds = find_other_values(find_value(attribute.words))
        words = [words for words in self._attributes_of[noun] if find_value(words) in kinds]
        if not words and self._common < COMMON and list_kinds(attribute) & GENERAL:
            words = [words for words in self._attributes_of_any if kinds.get(find_value(words)) in GENERAL]
        return {word: kinds[find_value(word)] for word in sorted(words)}

    def find_places(self, verb: str, noun: str) -> list[tuple[str, str]]:
        """Return other places of an action, (preposition, phrase), with a noun similar to that of the old place."""
        return [
            (preposition, text)
            for preposition, other, text in self._places_of.get(verb, ())
            if preposition in PLACES
            and other not in FIXED
            and not self.may_name_same_thing(noun, other)
            and self.things.are_similar(noun, other)
        ]

    def find_prepositions(self, preposition: str, noun: str) -> list[str]:
        """Return prepositions with another meaning that the captions have before a noun."""
        meaning = RELATIONS.get(preposition)
        return sorted(
            other
            for other, other_meaning in RELATIONS.items()
            if meaning is not None and meaning != other_meaning and self._relations[other, noun] > 2
        )

    def find_actions(self, action: str, contexts: Sequence[str]) -> list[str]:
        """Return other actions that the captions have in all of some contexts: a subject, and any complements."""
        verbs = set.intersection(*(self._actions_in.get(context, set()) for context in contexts))
        return sorted(
            verb
            for verb in verbs
            if not may_be_same_action(action, verb)
            and self.is_sure(verb, "verb")
            and self.actions.are_similar(action, verb)
        )


class Similarity:
    """The similarity of words: which are similar but not the same.

    A word's partners are those with the largest cosines to it: by rank, so that a word of any vocabulary has some. In a
    large vocabulary, the most similar pairs count as names of one thing.

    Args:
        contexts: words to their contexts, with the count of each.
        embed: maps words to vectors; None makes vectors of their contexts.
        share: of all words that are partners of one; at least `NEAREST` are.

    Attributes:
        index: words to their rows.
    """

    def __init__(self, contexts: Mapping[str, Mapping[str, int]], embed: Embed | None, share: float = 0.02) -> None:
        words = sorted(contexts)
        self.index = {word: index for index, word in enumerate(words)}
        self._vectors = embed(words) if embed is not None and words else _compute_ppmi(contexts, words)
        self._ranks: dict[str, np.ndarray] = {}
        self._nearest = max(NEAREST, math.ceil(share * len(words)))
        self._same = self._find_same()

    def _find_same(self) -> float:
        if len(self.index) < LARGE:
            return math.inf
        sample = self._vectors[:: max(1, len(self.index) // 1000)]
        return float(np.quantile((sample @ sample.T)[np.triu_indices(len(sample), 1)], SAME))

    def rank(self, first: str, second: str) -> int:
        """Return how many known words are more similar to the first than the second is; names of one thing are last."""
        if first not in self._ranks:
            cosines = self._vectors @ self._vectors[self.index[first]]
            cosines[self.index[first]] = -math.inf
            order = np.argsort(-np.where(cosines > self._same, -math.inf, cosines), kind="stable")
            self._ranks[first] = np.argsort(order)
        return int(self._ranks[first][self.index[second]])

    def are_similar(self, first: str, second: str) -> bool:
        """Return whether two words are known, and the second is among the partners of the first."""
        known = first in self.index and second in self.index and first != second
        return known and self.rank(first, second) < self._nearest


def _group_contexts(
    pairs: Mapping[tuple[str, str], int], totals: Mapping[str, int], common: int
) -> dict[str, dict[str, int]]:
    """Return the contexts of each word with at least `common` occurrences, with the count of each."""
    contexts: dict[str, dict[str, int]] = defaultdict(dict)
    for (word, context), count in sorted(pairs.items()):
        if totals[word] >= common and context != "?":
            contexts[word][context] = count
    return contexts


def _compute_ppmi(contexts: Mapping[str, Mapping[str, int]], words: Sequence[str]) -> np.ndarray:
    """Return the positive pointwise mutual information of N words and C contexts: (N, C) float32, rows of unit length.

    Church and Hanks 1990; Levy and Goldberg 2014, section 3.1.
    """
    words_in = Counter(context for word in words for context in contexts[word])
    columns = {context: column for column, (context, _) in enumerate(words_in.most_common(MAX_CONTEXTS))}
    table = np.zeros((len(words), max(1, len(columns))), np.float32)
    for row, word in enumerate(words):
        for context, count in contexts[word].items():
            if context in columns:
                table[row, columns[context]] = count
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / max(table.sum(), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.nan_to_num(np.maximum(np.log(table / expected), 0), posinf=0)
    return information / np.maximum(np.linalg.norm(information, axis=1, keepdims=True), 1e-9)

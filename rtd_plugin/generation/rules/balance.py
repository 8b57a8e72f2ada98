"""The balance of a build: rare kinds of edit are preferred, and wordings as people would choose them."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rtd_plugin.generation.rules.edits import Candidate
from rtd_plugin.phrasing.registers import REGISTERS, Register
from rtd_plugin.triplets.triplet import Triplet
from rtd_plugin.triplets.wording import Order, split_words

# Target share of edits of each kind, in percent, as far as captions allow it: those in CIRR and, for statements alone,
# those in FashionIQ, with a minimum so that every kind is learnt.
TARGETS = {
    "thing": 15, "attribute": 12, "activity": 10, "number": 9, "place": 8, "describe": 8, "action": 7, "remove": 7,
    "role": 6, "add": 6, "view": 5, "pose": 4, "locate": 3, "gender": 3,
}  # fmt: skip
STATED_TARGETS = TARGETS | {
    "attribute": 42, "describe": 24, "add": 9, "thing": 6, "remove": 5, "number": 1, "activity": 1, "place": 1,
    "action": 1, "role": 1, "view": 1, "pose": 1, "locate": 1, "gender": 1,
}  # fmt: skip
# How often statements are about a kind of attribute, relative to others.
STATED_DETAILS = {
    "colour": 8, "sleeves": 4, "length": 4, "hem": 3, "fit": 2, "pattern": 1, "material": 0.2, "type": 0.2,
}  # fmt: skip
OTHER = ""  # stands for all first words that a register does not list
WEIGHTS = (1.0, 1.5, 1.0)  # of the first word, the length and the order of a condition in the choice of its wording
WORD_WEIGHT = 6.0  # of its words
PRIOR = 100  # conditions whose shares are those wanted, before the first


class Balance:
    """Chooses triplets so that kinds of edit approach their targets, and wordings those of their register.

    Args:
        register: of the conditions, a key of `REGISTERS`.
        wordings: of one request, at most.

    Attributes:
        edits: chosen so far, by label.
        targets: the share of edits with each label that it aims at, in percent.
    """

    def __init__(self, register: str = "mixed", wordings: int = 1) -> None:
        self.edits: Counter[str] = Counter()
        self._detail_shares = STATED_DETAILS if register == "statements" else {}
        self.targets = STATED_TARGETS if register == "statements" else TARGETS
        self._details: Counter[tuple[str, str]] = Counter()
        self._wordings = [_WordingBalance(register) for register, _ in REGISTERS[register]]
        self._max_wordings = wordings

    def choose(self, candidates: Sequence[Candidate], count: int) -> list[Triplet]:
        """Choose requests of one caption, those of the rarest kinds, relative to their targets, first.

        Args:
            candidates: of the caption.
            count: of requests, at most.

        Returns:
            The triplets; the wordings of one request follow each other.
        """
        remaining, chosen = list(candidates), list[Triplet]()
        for _ in range(min(count, len(remaining))):
            best = max(remaining, key=self._rate)
            remaining.remove(best)
            conditions = self._wordings[best.register].choose(best.wordings, self._max_wordings)
            chosen += [Triplet(best.reference, condition, best.target) for condition in conditions]
            self.edits.update(best.labels * len(conditions))
            self._details.update(zip(best.labels, best.details, strict=True))
        return chosen

    def _rate(self, candidate: Candidate) -> tuple[float, float]:
        lacks = [self.targets[label] / (1 + self.edits[label]) for label in candidate.labels]
        pairs = zip(candidate.labels, candidate.details, strict=True)
        details = [self._details[pair] / self._detail_shares.get(pair[1], 1) for pair in pairs]
        return sum(lacks) / len(lacks), -max(details)


class _WordingBalance:
    """Chooses wordings so that first words, lengths and orders approach the shares of a register."""

    def __init__(self, register: Register) -> None:
        other = {OTHER: 100 - sum(register.openings.values())}
        shares: tuple[Mapping[Any, float], ...] = (dict(register.openings) | other, register.lengths, register.named)
        self._shares = shares
        self._counts: tuple[Counter[object], ...] = (Counter(), Counter(), Counter())
        self._total = 0
        self._words = {word: share / 1000 for word, share in register.words.items()}
        self._word_counts: Counter[str] = Counter()
        self._word_total = 0

    def choose(self, wordings: Sequence[tuple[str, Order]], count: int) -> list[str]:
        """Choose the wordings, at most so many, whose first word, length and order are furthest below their shares."""
        remaining = [(self._list_features(text, order), text) for text, order in wordings]
        chosen = list[str]()
        for _ in range(min(count, len(remaining))):
            best = max(remaining, key=lambda pair: self._rate(pair[0]) + self._rate_words(pair[1]))
            remaining.remove(best)
            self._count(*best)
            chosen.append(best[1])
        return chosen

    def _count(self, features: tuple[object, ...], text: str) -> None:
        words = split_words(text)
        self._word_counts.update(word for word in words if word in self._words)
        self._word_total += len(words)
        for counts, feature in zip(self._counts, features, strict=True):
            counts[feature] += 1
        self._total += 1

    def _list_features(self, text: str, order: Order) -> tuple[object, ...]:
        words = split_words(text)
        opening = words[0] if words and words[0] in self._shares[0] else OTHER
        return opening, len(words), order

    def _rate(self, features: tuple[object, ...]) -> float:
        rate = 0.0
        for weight, shares, counts, feature in zip(WEIGHTS, self._shares, self._counts, features, strict=True):
            wanted = shares.get(feature, 0.01) / 100
            share = (counts[feature] + PRIOR * wanted) / (self._total + PRIOR)
            rate += weight * math.log(wanted / share)
        return rate

    def _rate_words(self, text: str) -> float:
        """Return how far the words of the grammar in a text are below their frequencies, on average."""
        words = split_words(text)
        rate = 0.0
        for word in words:
            if (wanted := self._words.get(word)) is not None:
                share = (self._word_counts[word] + 10 * PRIOR * wanted) / (self._word_total + 10 * PRIOR)
                rate += math.log(wanted / share)
        return WORD_WEIGHT * rate / max(1, len(words))

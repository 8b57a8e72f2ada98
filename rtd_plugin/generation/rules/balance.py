"""The balance of a build's kinds of edit: triplets with rare kinds are preferred."""

from collections import Counter
from collections.abc import Sequence

from rtd_plugin.generation.rules.edits import Candidate

# Target share of edits of each kind, in percent, as far as captions allow it: those in CIRR, with a minimum so that
# every kind is learnt.
TARGETS = {
    "thing": 18, "attribute": 14, "number": 10, "place": 10, "describe": 9, "action": 9, "remove": 9, "role": 7,
    "add": 7, "locate": 4, "gender": 3,
}  # fmt: skip


class Balance:
    """Chooses triplets so that kinds of edit approach their targets.

    Attributes:
        edits: chosen so far, by label.
    """

    def __init__(self) -> None:
        self.edits: Counter[str] = Counter()
        self._details: Counter[tuple[str, str]] = Counter()

    def choose(self, candidates: Sequence[Candidate], count: int) -> list[Candidate]:
        """Choose triplets of one caption, those of the rarest kinds, relative to their targets, first."""
        remaining, chosen = list(candidates), list[Candidate]()
        while remaining and len(chosen) < count:
            best = max(remaining, key=self._rate)
            remaining.remove(best)
            chosen.append(best)
            self.edits.update(best.labels)
            self._details.update(zip(best.labels, best.details, strict=True))
        return chosen

    def _rate(self, candidate: Candidate) -> tuple[float, int]:
        lacks = [TARGETS[label] / (1 + self.edits[label]) for label in candidate.labels]
        details = [self._details[pair] for pair in zip(candidate.labels, candidate.details, strict=True)]
        return sum(lacks) / len(lacks), -max(details)

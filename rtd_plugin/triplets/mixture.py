"""Several sources in one run, each with its share."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from rtd_plugin.errors import UsageError


class Mixture(Sequence[int]):
    """Which triplet stands where in an epoch, as its number among all sources' triplets one after the other.

    With weights, a source's part of the epoch is its share of the weights. The epoch is as short as can be with no
    triplet left out, so a source with few triplets for its weight is repeated, from its start, until its part is full.

    Args:
        sizes: triplets of each source.
        weights: one a source, or None for all: every triplet once.

    Attributes:
        name: of this mixture among those of the same sources; "" without weights.

    Raises:
        UsageError: some sources have a weight and others have none.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float | None]) -> None:
        given = [weight for weight in weights if weight is not None]
        if given and len(given) < len(weights):
            number = list(weights).index(None)
            raise UsageError(f"triplets.{number}.weight: is missing: either all sources have a weight or none has")
        parts = list(sizes)
        if given:
            longest = max(size / weight for size, weight in zip(sizes, given, strict=True))
            # What rounding adds to a whole number of triplets is not one more.
            parts = [max(s, math.ceil(w * longest - 1e-6)) for s, w in zip(sizes, given, strict=True)]
        self._sizes = list(sizes)
        self._starts = [0, *accumulate(sizes)]
        self._ends = list(accumulate(parts))
        self.name = "-".join(map(str, parts)) if given else ""

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> int:
        index = range(len(self))[index]
        source = bisect_right(self._ends, index)
        start = self._ends[source - 1] if source else 0
        return self._starts[source] + (index - start) % self._sizes[source]

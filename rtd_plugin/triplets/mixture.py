"""Several sources in one run, each with its share."""

import math
from collections.abc import Sequence

import numpy as np

from rtd_plugin.errors import UsageError


class Mixture:
    """The triplets of an epoch, in order: a position in the epoch to a row among the triplets of all sources.

    With weights, a source gets its share of the epoch's positions. The epoch is the shortest one that leaves no triplet
    out; a source with few triplets for its weight is repeated from its start until its share is full.

    Args:
        sizes: triplets of each source.
        weights: one for each source, or None for all: every triplet once.

    Attributes:
        sizes, weights: as given.
        name: distinguishes this mixture from others of the same sources; "" without weights.

    Raises:
        UsageError: some sources have a weight and others have none.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float | None]) -> None:
        given = [weight for weight in weights if weight is not None]
        if given and len(given) < len(weights):
            source = list(weights).index(None)
            raise UsageError(f"triplets.{source}.weight: missing; give all sources a weight or none")
        shares = list(sizes)
        if given:
            longest = max(size / weight for size, weight in zip(sizes, given, strict=True))
            # The tolerance keeps a rounding error from adding a position.
            shares = [max(size, math.ceil(weight * longest - 1e-6)) for size, weight in zip(sizes, given, strict=True)]
        self.sizes, self.weights = list(sizes), list(weights)
        self.name = "-".join(map(str, shares)) if given else ""
        self._sizes = np.array(sizes, np.int64)
        self._first_rows = np.cumsum(self._sizes) - self._sizes
        self._ends = np.cumsum(shares, dtype=np.int64)
        self._starts = self._ends - np.array(shares, np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """Return the rows at positions of the epoch.

        Args:
            positions: (B,) integers in [0, len(self)).

        Returns:
            (B,) int64.

        Raises:
            IndexError: a position is outside the epoch.
        """
        positions = np.asarray(positions, np.int64)
        if len(positions) and not 0 <= positions.min() <= positions.max() < len(self):
            raise IndexError(f"positions must be in [0, {len(self)})")
        source = np.searchsorted(self._ends, positions, side="right")
        return self._first_rows[source] + (positions - self._starts[source]) % self._sizes[source]

    def count_visits(self, positions: np.ndarray, epoch: int) -> np.ndarray:
        """Return how often the rows at positions of an epoch were visited before, in this epoch and the ones before.

        Args:
            positions: (B,) integers in [0, len(self)).
            epoch: counted from 0.

        Returns:
            (B,) int64.
        """
        source = np.searchsorted(self._ends, positions, side="right")
        sizes, shares = self._sizes[source], self._ends[source] - self._starts[source]
        repeats, rows = np.divmod(positions - self._starts[source], sizes)
        visits_per_epoch = shares // sizes + (rows < shares % sizes)
        return epoch * visits_per_epoch + repeats

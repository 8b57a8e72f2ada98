"""Which triplets a batch has: a function of the seed and the batch's index, so a run can resume at any step."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from rtd_plugin.errors import RTDError
from rtd_plugin.triplets.interning import mix_bits

ORDER, NOISE, HELD_OUT, WORD_NOISE, WORDINGS = range(5)  # a run's random streams, for `stream_seed`
FEISTEL_ROUNDS = 6


@dataclass(frozen=True)
class BatchOrder:
    """The order in which triplets are visited: each epoch a new permutation, its incomplete last batch left out.

    Args:
        triplets: how many there are.
        batch_size: triplets per batch and process.
        shuffle: False for the order of the file, in every epoch.
        seed: of the permutations.
        processes: how many there are; with each index they take batch_size × processes triplets.

    Raises:
        RTDError: there are fewer triplets than one batch of all processes needs.
    """

    triplets: int
    batch_size: int
    shuffle: bool
    seed: int
    processes: int = 1

    def __post_init__(self) -> None:
        if self.triplets < self.batch_size * self.processes:
            raise RTDError(
                f"{self.triplets} triplets do not fill one batch of {self.batch_size} on {self.processes} process(es): "
                "set batch_size lower"
            )

    def rows(self, index: int, rank: int = 0) -> np.ndarray:
        """Return a batch's triplets on one process as rows, (batch_size,) int64; `index` counts over all epochs."""
        start = (index % self._batches * self.processes + rank) * self.batch_size
        return self.rows_at(np.arange(start, start + self.batch_size), self.find_epoch(index))

    def find_epoch(self, index: int) -> int:
        """Return the epoch of a batch, counted from 0."""
        return index // self._batches

    @property
    def _batches(self) -> int:
        """Number of batches of an epoch."""
        return self.triplets // (self.batch_size * self.processes)

    def rows_at(self, positions: np.ndarray, epoch: int = 0) -> np.ndarray:
        """Return which triplets are at some positions of an epoch, those included that it leaves out at its end."""
        return permute(positions, self.triplets, stream_seed(self.seed, epoch)) if self.shuffle else positions

    def find_positions(self, rows: np.ndarray) -> np.ndarray:
        """Return where triplets are in the first epoch, the inverse of `rows_at`."""
        seed = stream_seed(self.seed, 0)
        return permute(rows, self.triplets, seed, inverse=True) if self.shuffle else rows


def permute(positions: np.ndarray, size: int, seed: int, inverse: bool = False) -> np.ndarray:
    """Return the values of a permutation of 0 … size-1, or its inverse, at some positions, without the others.

    A Feistel network permutes the integers of an even number of bits (Luby and Rackoff 1988); values outside
    the range are permuted again until they are inside (Black and Rogaway 2002, cycle walking).
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    result = positions.astype(np.uint64)
    outside = np.ones(len(result), dtype=bool)
    while outside.any():
        left, right = result[outside] >> half, result[outside] & mask
        if inverse:  # the same rounds in reverse order, with the halves exchanged
            left, right = right, left
        for key in _make_round_keys(seed)[:: -1 if inverse else 1]:
            left, right = right, left ^ (mix_bits(right + key) & mask)
        if inverse:
            left, right = right, left
        result[outside] = (left << half) | right
        outside = result >= size
    return result.astype(np.int64)


@lru_cache(maxsize=4)
def _make_round_keys(seed: int) -> np.ndarray:
    return np.random.SeedSequence(seed).generate_state(FEISTEL_ROUNDS, np.uint64)


@lru_cache(maxsize=16)
def stream_seed(seed: int, *stream: int) -> int:
    """Return the seed of one of a run's random streams: unrelated for different streams and different seeds."""
    return int(np.random.SeedSequence(seed, spawn_key=stream).generate_state(1, np.uint64)[0])

"""Distinct things, numbered in the order in which they come: by hashes, in arrays, for some 40 bytes a thing."""

import numpy as np

FREE = np.uint32(2**32 - 1)
BLOCK = 2**16  # keys that are put into a larger table at once


def mixed(numbers: np.ndarray) -> np.ndarray:
    """A hash of 64-bit numbers: the last steps of SplitMix64 (Steele et al. 2014)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


class Numbers:
    """The numbers of keys, a hash table with linear probing.

    What a loop over a dictionary would do, without a Python object for each key.
    """

    def __init__(self) -> None:
        self._count = 0
        self._keys = np.empty((BLOCK, 2), np.uint64)  # by their numbers
        self._slots = np.full(2 * BLOCK, FREE)  # numbers, by their keys; no more than half of them taken

    def __len__(self) -> int:
        return self._count

    def of(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number keys: old ones as before, new ones in their order from `len(self)` on.

        Args:
            keys: (k, 2) uint64, hashes of 128 bits.

        Returns:
            (k,) uint32, their numbers; (m,) int64, where each new one stands first.
        """
        known = self._count
        self._make_room(known + len(keys))
        own = np.arange(known, known + len(keys), dtype=np.uint32)  # their numbers if all were new and distinct
        self._keys[own] = keys
        numbers, places = self._place(own)
        new = np.flatnonzero(numbers == own)
        final = np.zeros(len(keys), np.uint32)
        final[new] = own[: len(new)]
        again = numbers >= known
        numbers[again] = final[numbers[again] - known]
        self._slots[places[new]] = own[: len(new)]
        self._count += len(new)
        self._keys[known : self._count] = keys[new]
        return numbers, new

    def _place(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find a slot for the keys of numbers: the first number of an equal key, and its slot."""
        keys, mask = self._keys[numbers], len(self._slots) - 1
        first = np.empty(len(numbers), np.uint32)
        places = (keys[:, 0] & np.uint64(mask)).astype(np.int64)
        left = np.arange(len(numbers))
        while len(left):
            at = places[left]
            claims = left[self._slots[at] == FREE][::-1]  # of several for one slot the last stays: the smallest number
            self._slots[places[claims]] = numbers[claims]
            held = self._slots[at]
            equal = (self._keys[held] == keys[left]).all(axis=1)
            first[left[equal]] = held[equal]
            left = left[~equal]
            places[left] = (places[left] + 1) & mask
        return first, places

    def _make_room(self, count: int) -> None:
        if count > len(self._keys):
            keys, self._keys = self._keys, np.empty((max(count, 2 * len(self._keys)), 2), np.uint64)
            self._keys[: self._count] = keys[: self._count]
        if 2 * count > len(self._slots):
            self._slots = np.full(2 ** (2 * count - 1).bit_length(), FREE)
            for start in range(0, self._count, BLOCK):
                self._place(np.arange(start, min(start + BLOCK, self._count), dtype=np.uint32))

"""Distinct keys, indexed in the order in which they first occur: hashes in arrays, about 40 bytes per key."""

import numpy as np

FREE = np.uint32(2**32 - 1)
BLOCK = 2**16  # keys inserted at once when the table grows


def mix_bits(values: np.ndarray) -> np.ndarray:
    """Hash 64-bit integers with the last steps of SplitMix64 (Steele et al. 2014).

    Args:
        values: uint64, of any shape.

    Returns:
        uint64 of the same shape.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class Interner:
    """The indices of keys: a hash table with linear probing.

    Gives the result of `dictionary.setdefault(key, len(dictionary))` in a loop, without a Python object for each key.
    """

    def __init__(self) -> None:
        self._count = 0
        self._keys = np.empty((BLOCK, 2), np.uint64)  # by index
        self._slots = np.full(2 * BLOCK, FREE)  # index by hash; at most half of the slots are taken

    def __len__(self) -> int:
        return self._count

    def intern(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the index of each key; new keys get the next indices, in the order in which they occur.

        Args:
            keys: (k, 2) uint64, hashes of 128 bits.

        Returns:
            indices: (k,) uint32.
            new: (m,) int64, the rows of `keys` where each new key occurs first.
        """
        known = self._count
        self._grow(known + len(keys))
        provisional = np.arange(known, known + len(keys), dtype=np.uint32)  # right if all keys are new and distinct
        self._keys[provisional] = keys
        indices, slots = self._insert(provisional)
        new = np.flatnonzero(indices == provisional)
        final = np.zeros(len(keys), np.uint32)
        final[new] = provisional[: len(new)]
        is_new = indices >= known
        indices[is_new] = final[indices[is_new] - known]
        self._slots[slots[new]] = provisional[: len(new)]
        self._count += len(new)
        self._keys[known : self._count] = keys[new]
        return indices, new

    def _insert(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Insert the keys of indices; return for each the first index with an equal key, and its slot."""
        keys, mask = self._keys[indices], len(self._slots) - 1
        first = np.empty(len(indices), np.uint32)
        slots = (keys[:, 0] & np.uint64(mask)).astype(np.int64)
        pending = np.arange(len(indices))
        while len(pending):
            probed = slots[pending]
            # Reversed: of several claims to one slot numpy keeps the last, here the smallest index.
            claims = pending[self._slots[probed] == FREE][::-1]
            self._slots[slots[claims]] = indices[claims]
            holders = self._slots[probed]
            equal = (self._keys[holders] == keys[pending]).all(axis=1)
            first[pending[equal]] = holders[equal]
            pending = pending[~equal]
            slots[pending] = (slots[pending] + 1) & mask
        return first, slots

    def _grow(self, count: int) -> None:
        if count > len(self._keys):
            keys, self._keys = self._keys, np.empty((max(count, 2 * len(self._keys)), 2), np.uint64)
            self._keys[: self._count] = keys[: self._count]
        if 2 * count > len(self._slots):
            self._slots = np.full(2 ** (2 * count - 1).bit_length(), FREE)
            for start in range(0, self._count, BLOCK):
                self._insert(np.arange(start, min(start + BLOCK, self._count), dtype=np.uint32))

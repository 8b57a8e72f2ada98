"""Where the vectors of many keys are, in arrays: a Python object a key would take 200 bytes, and these take 40."""

import numpy as np

WORDS = 4  # 64-bit words of a key
MISSING = -1


class KeyIndex:
    """A location, an integer from 0, for each of many keys, (n, 4) uint64; their first words hardly ever repeat."""

    def __init__(self) -> None:
        self._keys = np.empty((0, WORDS), np.uint64)  # by their first word
        self._locations = np.empty(0, np.int64)
        self._added: list[tuple[np.ndarray, np.ndarray]] = []  # not sorted yet

    def add(self, keys: np.ndarray, locations: np.ndarray) -> None:
        """Add keys with their locations; of a key that is added twice, either counts."""
        self._added.append((keys, locations))

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return the locations of keys, (n,) int64, -1 where there is none."""
        self._sort()
        found = np.full(len(keys), MISSING)
        rows = np.searchsorted(self._keys[:, 0], keys[:, 0])
        pending = np.arange(len(keys))
        while len(pending):  # again for keys that have the first word in common
            pending = pending[rows[pending] < len(self._keys)]
            at = self._keys[rows[pending]]
            is_equal = (at == keys[pending]).all(1)
            found[pending[is_equal]] = self._locations[rows[pending[is_equal]]]
            pending = pending[~is_equal & (at[:, 0] == keys[pending, 0])]
            rows[pending] += 1
        return found

    def remove(self, first: int, last: int) -> None:
        """Remove all keys with locations from `first` to `last`."""
        self._sort()
        keep = (self._locations < first) | (self._locations > last)
        self._keys, self._locations = self._keys[keep], self._locations[keep]

    def _sort(self) -> None:
        if self._added:
            keys = np.concatenate([self._keys, *(keys for keys, _ in self._added)])
            locations = np.concatenate([self._locations, *(locations for _, locations in self._added)])
            order = np.argsort(keys[:, 0])
            self._keys, self._locations, self._added = keys[order], locations[order], []

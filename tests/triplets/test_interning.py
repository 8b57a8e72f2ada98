"""Keys get the indices that a dictionary would give them, also with collisions."""

import numpy as np
import pytest

from rtd_plugin.triplets import interning as module
from rtd_plugin.triplets.interning import Interner


@pytest.mark.parametrize(
    ("low", "high"),
    [(2**63, 2**63), (40, 3), (1, 3000), (2, 2)],
    ids=["all distinct", "many equal", "all in one slot", "nearly all equal"],
)
def test_indices_are_those_of_a_dictionary(low, high, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 16)  # so that tables grow, and are filled again block by block
    random = np.random.default_rng(0)
    interner, plain = Interner(), {}
    for size in [0, 1, 5, 300, 7, 1000, 64]:
        keys = np.stack([random.integers(0, bound, size, dtype=np.uint64) for bound in (low, high)], axis=1)
        before = len(plain)
        expected = [plain.setdefault(tuple(key), len(plain)) for key in keys.tolist()]
        found, new = interner.intern(keys)
        assert found.tolist() == expected
        assert new.tolist() == [expected.index(number) for number in range(before, len(plain))]
        assert len(interner) == len(plain)

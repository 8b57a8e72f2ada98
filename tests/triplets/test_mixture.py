"""Several sources in one run."""

from collections import Counter

import numpy as np
import pytest
from token_triplets import read_store

from rtd_plugin.clip.tokens import Prompt
from rtd_plugin.errors import UsageError
from rtd_plugin.triplets.mixture import Mixture
from rtd_plugin.triplets.token_store import open_token_store
from rtd_plugin.triplets.triplet import Triplet, TripletSet


def all_rows(mixture):
    return mixture.rows(np.arange(len(mixture))).tolist()


def test_without_weights_every_triplet_once():
    mixture = Mixture([3, 1, 2], [None, None, None])
    assert all_rows(mixture) == [0, 1, 2, 3, 4, 5]
    assert mixture.name == ""
    for position in (6, -1):
        with pytest.raises(IndexError):
            mixture.rows(np.array([0, position]))
    assert mixture.rows(np.array([], int)).tolist() == []


@pytest.mark.parametrize(
    ("sizes", "weights", "shares"),
    [
        ((10, 30), (1, 1), (30, 30)),
        ((10, 30), (3, 1), (90, 30)),
        ((10, 30), (1, 9), (10, 90)),
        ((7, 7), (0.5, 0.25), (14, 7)),
        ((3, 5, 2), (0.1, 0.7, 0.2), (3, 21, 6)),
    ],
)
def test_weights_are_shares_and_nothing_is_left_out(sizes, weights, shares):
    mixture = Mixture(sizes, weights)
    visited = Counter(all_rows(mixture))
    first = 0
    for size, share in zip(sizes, shares, strict=True):
        times = [visited[row] for row in range(first, first + size)]
        assert sum(times) == share
        assert min(times) >= 1
        assert max(times) - min(times) <= 1
        first += size
    assert len(mixture) == sum(shares)
    assert mixture.name


def test_a_small_source_is_repeated_from_its_start():
    mixture = Mixture([2, 4], [1, 1])
    assert mixture.rows(np.array([4, 3, 0])).tolist() == [2, 1, 0]
    assert all_rows(mixture) == [0, 1, 0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("sizes", "weights"), [((3, 1), (None, None)), ((2, 7), (1, 1)), ((5, 3), (1, 4))])
def test_visits_of_a_row_are_counted_over_epochs(sizes, weights):
    mixture, visited = Mixture(sizes, weights), Counter()
    positions = np.arange(len(mixture))
    for epoch in range(3):
        counted = mixture.count_visits(positions[::-1], epoch)[::-1]
        for row, visits in zip(all_rows(mixture), counted.tolist(), strict=True):
            assert visits == visited[row]
            visited[row] += 1


def test_a_missing_weight_is_named():
    with pytest.raises(UsageError, match=r"triplets\.1\.weight: missing"):
        Mixture([1, 1], [2, None])


def test_a_store_is_visited_as_the_mixture_says(tmp_path, monkeypatch):
    monkeypatch.setenv("RTD_PLUGIN_CACHE", str(tmp_path))
    few = [Triplet("one dog", "is red", "a red dog")]
    many = [Triplet(f"{count} cats", "more", f"{count + 1} cats") for count in range(3)]
    store = open_token_store(
        [TripletSet(few, "few"), TripletSet(many, "many")], Prompt("a photo of $ that {condition}")
    )
    reordered = store.reorder(Mixture([1, 3], [2, 1]))
    one, *rest = read_store(store)
    assert read_store(reordered) == [one] * 6 + rest
    assert reordered.vocabulary == store.vocabulary
    assert reordered.key != store.key == store.reorder(Mixture([1, 3], [None, None])).key

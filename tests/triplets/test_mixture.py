"""Several sources in one run."""

from collections import Counter

import pytest

from rtd_plugin.clip.tokens import Prompt
from rtd_plugin.errors import UsageError
from rtd_plugin.triplets.mixture import Mixture
from rtd_plugin.triplets.token_store import token_store
from rtd_plugin.triplets.triplet import Triplet, TripletSet


def test_without_weights_every_triplet_once():
    mixture = Mixture([3, 1, 2], [None, None, None])
    assert list(mixture) == [0, 1, 2, 3, 4, 5]
    assert mixture[-1] == 5
    assert mixture.name == ""
    with pytest.raises(IndexError):
        mixture[6]


@pytest.mark.parametrize(
    ("sizes", "weights", "parts"),
    [
        ((10, 30), (1, 1), (30, 30)),
        ((10, 30), (3, 1), (90, 30)),
        ((10, 30), (1, 9), (10, 90)),
        ((7, 7), (0.5, 0.25), (14, 7)),
        ((3, 5, 2), (0.1, 0.7, 0.2), (3, 21, 6)),
    ],
)
def test_weights_are_shares_and_nothing_is_left_out(sizes, weights, parts):
    mixture = Mixture(sizes, weights)
    visited = Counter(mixture)
    first = 0
    for size, part in zip(sizes, parts, strict=True):
        times = [visited[number] for number in range(first, first + size)]
        assert sum(times) == part
        assert min(times) >= 1
        assert max(times) - min(times) <= 1
        first += size
    assert len(mixture) == sum(parts)
    assert mixture.name


def test_where_a_triplet_is():
    assert list(Mixture([2, 4], [1, 1])) == [0, 1, 0, 1, 2, 3, 4, 5]


def test_a_missing_weight_is_named():
    with pytest.raises(UsageError, match=r"triplets\.1\.weight: is missing"):
        Mixture([1, 1], [2, None])


def test_a_store_is_visited_as_the_mixture_says(tmp_path, monkeypatch):
    monkeypatch.setenv("RTD_PLUGIN_CACHE", str(tmp_path))
    few = [Triplet("one dog", "is red", "a red dog")]
    many = [Triplet(f"{number} cats", "more", f"{number + 1} cats") for number in range(3)]
    store = token_store([TripletSet(few, "few"), TripletSet(many, "many")], Prompt("a photo of $ that {condition}"))
    mixed = store.mixed(Mixture([1, 3], [2, 1]))
    assert list(mixed) == [store[0]] * 6 + [store[1], store[2], store[3]]
    assert mixed.vocabulary == store.vocabulary
    assert mixed.key != store.key == store.mixed(Mixture([1, 3], [None, None])).key

"""One wording of each request in an epoch."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from token_triplets import read_store

from rtd_plugin.clip.tokens import Prompt
from rtd_plugin.triplets.mixture import Mixture
from rtd_plugin.triplets.request_wordings import group_wordings
from rtd_plugin.triplets.token_store import open_token_store
from rtd_plugin.triplets.triplet import Triplet, TripletSet

PROMPT = Prompt("a photo of $ that {condition}")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RTD_PLUGIN_CACHE", str(tmp_path))


def make_triplets(count, name="picture", wordings=3):
    """Triplets of as many requests, two of each reference, with one to `wordings` wordings one after the other."""
    return [
        Triplet(f"{name} {index // 2}", f"is {index % 2} {word}", f"{name} {index // 2} {index % 2}")
        for index in range(count)
        for word in ("now", "instead", "please", "then")[: 1 + index % wordings]
    ]


def open_store(*sources, weights=None):
    sets = [TripletSet(source, repr(source)) for source in sources]
    mixture = Mixture([len(source) for source in sources], weights or [None] * len(sources))
    return open_token_store(sets, PROMPT).reorder(mixture)


def read_epoch(store, epoch):
    """The triplets of an epoch, as their captions and their condition."""
    batch = store.gather(np.arange(len(store)), epoch)
    rows = zip(*(np.split(texts.values, np.cumsum(texts.lengths)[:-1]) for texts in batch[:3]), strict=True)
    triplets = [[tuple(text.tolist()) for text in row] for row in rows]
    return [((reference, target), condition) for reference, condition, target in triplets]


def list_wordings(store):
    """The conditions of each pair of captions in a store whose wordings are not sampled."""
    wordings = {}
    for captions, condition in read_epoch(store, 0):
        wordings.setdefault(captions, []).append(condition)
    return wordings


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 2), st.integers(3, 5)), min_size=1, max_size=9), min_size=1, max_size=3)
)
def test_requests_are_pairs_of_captions_in_the_order_of_their_first_triplets(sources):
    triplets = np.array([(one, 9, other) for source in sources for one, other in source], np.uint32)
    wordings, sizes = group_wordings(triplets, [len(source) for source in sources])
    expected, row = [], 0
    for source, size in zip(sources, sizes, strict=True):
        rows = {}
        for pair in source:
            rows.setdefault(pair, []).append(row)
            row += 1
        expected += rows.values()
        assert size == len(rows)
    assert [rows.tolist() for rows in np.split(wordings.rows, wordings.starts[1:-1])] == expected
    assert wordings.first_rows.tolist() == [rows[0] for rows in expected]


def test_each_epoch_has_one_wording_of_each_request_and_several_epochs_have_all():
    whole = open_store(make_triplets(40))
    expected, store = list_wordings(whole), whole.sample_wordings(5)
    assert len(store) == 40 < len(whole)
    epochs = [read_epoch(store, epoch) for epoch in range(6)]
    for epoch in epochs:
        assert [captions for captions, _ in epoch] == list(expected)
    for index, (captions, conditions) in enumerate(expected.items()):
        taken = [epoch[index] for epoch in epochs]
        assert {pair for pair, _ in taken} == {captions}
        for first in range(0, 6, len(conditions)):
            assert sorted(condition for _, condition in taken[first : first + len(conditions)]) == sorted(conditions)


def test_wordings_depend_on_seed_and_epoch_alone():
    triplets = make_triplets(60)
    store = open_store(triplets).sample_wordings(5)
    again, other = open_store(triplets).sample_wordings(5), open_store(triplets).sample_wordings(2**63)
    assert read_epoch(again, 3) == read_epoch(store, 3)
    rows = np.array([41, 7, 7])
    (some, all_of_them) = (store.gather(rows, 3), read_epoch(store, 3))
    taken = np.split(some.conditions.values, np.cumsum(some.conditions.lengths)[:-1])
    assert [tuple(text.tolist()) for text in taken] == [all_of_them[row][1] for row in rows]
    assert read_epoch(other, 0) != read_epoch(store, 0) != read_epoch(store, 1)
    # About half of the requests with two wordings begin with the first.
    whole = list_wordings(open_store(triplets))
    begins = [
        whole[captions].index(condition) for captions, condition in read_epoch(store, 0) if len(whole[captions]) == 2
    ]
    assert 4 <= sum(begins) <= len(begins) - 4 == 16


def test_captions_are_those_of_the_triplets():
    """Features of captions are kept by their indices and by the store's key."""
    whole = open_store(make_triplets(20))
    store = whole.sample_wordings(1)
    expected = {tuple(captions) for captions in whole.gather(np.arange(len(whole))).captions.tolist()}
    for epoch in (0, 1):
        captions = store.gather(np.arange(len(store)), epoch).captions
        assert {*map(tuple, captions.tolist())} == expected
        assert np.array_equal(captions, store.gather(np.arange(len(store))).captions)
    assert store.key != whole.key
    assert store.vocabulary == whole.vocabulary
    assert store.records == len(whole)


def test_a_file_without_other_wordings_is_visited_as_it_is():
    triplets = make_triplets(20, wordings=1)
    whole = open_store(triplets)
    assert read_store(whole.sample_wordings(3)) == read_store(whole)


def test_sources_without_weights_share_their_requests():
    """As if `triplets paraphrase` had written the wordings into a file of their own."""
    triplets = make_triplets(30)
    whole = open_store(triplets)
    parts = open_store(triplets[::2], triplets[1::2]).sample_wordings(2)
    assert len(parts) == 30
    assert {captions for captions, _ in read_epoch(parts, 0)} == set(list_wordings(whole))


def test_a_mixture_has_shares_of_requests_and_takes_another_wording_at_each_repetition():
    few, many = make_triplets(4, "dog", wordings=4), make_triplets(40)
    store = open_store(few, many, weights=[1, 2]).sample_wordings(2)
    assert len(store) == 20 + 40
    expected = list_wordings(open_store(few))
    for epoch in (0, 1):
        repeated, once = read_epoch(store, epoch)[:20], read_epoch(store, epoch)[20:]
        assert len({captions for captions, _ in once}) == 40
        for index, (captions, conditions) in enumerate(expected.items()):
            taken = repeated[index::4]
            assert {pair for pair, _ in taken} == {captions}
            counts = Counter(condition for _, condition in taken)
            assert set(counts) == set(conditions)
            assert max(counts.values()) - min(counts.values()) <= 1
    assert store.key != open_store(few, many).sample_wordings(2).key
    assert store.key != open_store(few, many, weights=[1, 2]).key


@pytest.mark.parametrize("weights", [None, [1, 3]])
def test_requests_are_held_out_whole_and_in_one_wording(weights):
    first, second = make_triplets(40), make_triplets(10, "dog")
    store = open_store(first, second, weights=weights).sample_wordings(2)
    rest, held_out = store.hold_out(0.3, 1000, seed=5)
    assert 14 <= len(held_out) <= 17  # 15 of 50 requests, and those of the last reference
    kept, measured = ([captions for captions, _ in read_epoch(part, 0)] for part in (rest, held_out))
    assert not {reference for reference, _ in kept} & {reference for reference, _ in measured}
    assert len(set(measured)) == len(measured)
    assert set(kept) | set(measured) == set(list_wordings(open_store(first, second)))
    expected = read_epoch(store, 3)
    assert read_epoch(rest, 3) == [triplet for triplet in expected if triplet[0] in kept]
    assert 5 <= len(store.hold_out(0.3, 5, seed=5)[1]) <= 6
    assert rest.key != store.key

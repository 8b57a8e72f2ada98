"""The order of triplets in batches."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rtd_plugin.errors import RTDError
from rtd_plugin.training.order import BatchOrder, permute, stream_seed


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 3), st.integers(0, 30), st.integers(0, 2**70), st.integers(0, 4), st.booleans()
)
def test_ranks_are_disjoint_and_an_epoch_visits_each_triplet_once(batch, processes, more, seed, epoch, shuffle):
    count = batch * processes + more
    order = BatchOrder(count, batch, shuffle, seed, processes)
    batches = count // (batch * processes)
    seen = [
        index
        for step in range(epoch * batches, (epoch + 1) * batches)
        for rank in range(processes)
        for index in order.rows(step, rank).tolist()
    ]
    assert len(seen) == len(set(seen)) == batches * batch * processes  # the incomplete last batch is left out
    assert set(seen) <= set(range(count))
    if not shuffle:
        assert seen == list(range(len(seen)))


def test_epochs_and_seeds_differ_and_repeat_themselves():
    def visit(seed, epoch):
        return BatchOrder(20, 20, True, seed).rows(epoch).tolist()

    orders = [visit(seed, epoch) for seed in (0, 1, 2) for epoch in (0, 1, 2)]
    assert len(set(map(tuple, orders))) == 9
    assert orders == [visit(seed, epoch) for seed in (0, 1, 2) for epoch in (0, 1, 2)]
    assert all(sorted(order) == list(range(20)) for order in orders)


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("count", [1, 7, 64, 1000])
def test_positions_in_the_first_epoch(shuffle, count):
    order = BatchOrder(count, 1, shuffle, 3)
    rows = np.concatenate([order.rows(index) for index in range(count)])
    assert (order.rows_at(np.arange(count)) == rows).all()
    assert (order.find_positions(rows) == np.arange(count)).all()


def test_each_epoch_leaves_out_other_triplets():
    left_out = [set(range(10)) - set(BatchOrder(10, 9, True, 0).rows(epoch)) for epoch in range(20)]
    assert len(set.union(*left_out)) > 3


@pytest.mark.parametrize("size", [1, 2, 3, 64, 1000])
def test_permutations_are_permutations_and_look_random(size):
    positions = np.arange(size)
    permutations = np.stack([permute(positions, size, seed) for seed in range(200)])  # (200, size)
    assert (np.sort(permutations, axis=1) == positions).all()
    assert (permute(positions[::2], size, 7) == permutations[7, ::2]).all()
    # Each position takes each value equally often, and neighbours go to unrelated positions.
    assert np.abs(permutations.mean(axis=0) - (size - 1) / 2).max() < 5 * size / math.sqrt(12 * 200)
    if size == 1000:
        assert abs(np.corrcoef(permutations[:, :-1].ravel(), permutations[:, 1:].ravel())[0, 1]) < 0.01
        assert len(np.unique(permutations[:, 0])) > 150


def test_a_permutation_of_ten_million_needs_no_list():
    assert sorted(permute(np.arange(10), 10_000_000, 1)) != list(range(10))
    assert permute(np.arange(10_000), 10_000_000, 1).max() < 10_000_000


def test_too_few_triplets():
    with pytest.raises(RTDError, match=r"7 triplets do not fill one batch of 4 on 2 process\(es\): set batch_size"):
        BatchOrder(7, 4, True, 0, processes=2)
    assert len(BatchOrder(8, 4, True, 0, processes=2).rows(0)) == 4


def test_streams_have_different_seeds():
    """Also if numbers are zero or missing: seeds of (1,) and (1, 0) must differ."""
    large = 2**32
    keys = [(seed, *stream) for seed in (0, 1, large, large + 1) for stream in [(), (0,), (1,), (0, 0), (1, 0), (0, 1)]]
    keys += [(12345, stream, step, rank) for stream in (0, 1) for step in range(50) for rank in range(4)]
    seeds = [stream_seed(*key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert all(0 <= seed < 2**64 for seed in seeds)
    torch.Generator().manual_seed(max(seeds))
    draws = torch.stack([torch.rand(200, generator=torch.Generator().manual_seed(seed)) for seed in seeds[:30]])
    assert torch.corrcoef(draws).triu(1).abs().max() < 5 / math.sqrt(200)

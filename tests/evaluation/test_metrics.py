"""Recall, average precision and confidence intervals, each against a case by hand and against brute force."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rtd_plugin.evaluation import metrics
from rtd_plugin.evaluation.metrics import average_precision_at, bootstrap_interval, hits_at


def test_recall_by_hand():
    ranks = torch.tensor([1, 2, 3, 10, 0])
    assert [hits_at(ranks, k).mean().item() for k in (1, 2, 5, 10)] == [0.2, 0.4, 0.6, 0.8]


def test_average_precision_by_hand():
    """Targets at 1, 3 and 8: precisions 1/1, 2/3 and 3/8."""
    ranks = torch.tensor([[1, 3, 8], [2, 0, 0], [0, 0, 0]])
    assert average_precision_at(ranks, 2).tolist() == pytest.approx([1 / 2, 1 / 2, 0])
    assert average_precision_at(ranks, 5).tolist() == pytest.approx([(1 + 2 / 3) / 3, 1 / 2, 0])
    assert average_precision_at(ranks, 10).tolist() == pytest.approx([(1 + 2 / 3 + 3 / 8) / 3, 1 / 2, 0])
    assert average_precision_at(ranks, 1).tolist() == [1, 0, 0]


@settings(deadline=None, max_examples=100)
@given(targets=st.lists(st.integers(1, 30), min_size=1, max_size=12, unique=True), k=st.integers(1, 25))
def test_metrics_equal_those_by_brute_force(targets, k):
    """Walking down the ranking."""
    found, total = 0, 0.0
    for rank in range(1, k + 1):
        if rank in targets:
            found += 1
            total += found / rank
    ranks = torch.tensor([[*sorted(targets), 0, 0]])
    assert average_precision_at(ranks, k).item() == pytest.approx(total / min(len(targets), k))
    assert hits_at(torch.tensor(targets), k).tolist() == [float(rank <= k) for rank in targets]


def test_interval_by_hand():
    assert bootstrap_interval(torch.ones(7)) == (100.0, 100.0)
    hits = torch.tensor([1.0, 0.0, 1.0, 0.0])
    assert bootstrap_interval(hits - hits) == (0.0, 0.0)
    assert bootstrap_interval(2 * hits - 1, level=0.999) == (-100.0, 100.0)  # 2 of 256 samples each


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("paired", [False, True])
def test_interval_by_brute_force(level, paired):
    """All 5^5 samples of five queries, with figures that make hardly any two means alike."""
    figures = torch.tensor([0.0, 0.1, 0.27, 0.56, 1.0], dtype=torch.float64)
    other = torch.tensor([0.3, 0.0, 0.07, 0.9, 0.45], dtype=torch.float64) if paired else None
    figures = figures - other if paired else figures
    means = torch.tensor([100 * sum(sample) / 5 for sample in itertools.product(figures.tolist(), repeat=5)])
    expected = [means.quantile((1 + side * level) / 2).item() for side in (-1, 1)]
    assert bootstrap_interval(figures, level=level, resamples=40_000) == pytest.approx(expected, abs=0.7)


def test_interval_of_hits_follows_the_normal_approximation():
    hits = (torch.arange(2000) % 10 < 3).float()
    half = 100 * 1.96 * math.sqrt(0.3 * 0.7 / 2000)
    assert bootstrap_interval(hits) == pytest.approx((30 - half, 30 + half), abs=0.12)
    other = hits.clone()
    other[:100] = 1 - other[:100]  # 70 lost, 30 won: a difference of -2 points
    deviation = math.sqrt(100 / 2000 - 0.02**2)
    half = 100 * 1.96 * deviation / math.sqrt(2000)
    assert bootstrap_interval(hits - other) == pytest.approx((-2 - half, -2 + half), abs=0.06)


def test_intervals_cover_at_their_level():
    generator = torch.Generator().manual_seed(0)
    samples = (torch.rand(400, 150, generator=generator) < 0.3).float()
    intervals = [bootstrap_interval(hits, resamples=1000, level=0.9) for hits in samples]
    covered = sum(low <= 30 <= high for low, high in intervals) / len(intervals)
    assert 0.85 < covered < 0.95


def test_intervals_depend_only_on_their_seed(monkeypatch):
    figures = torch.rand(50, generator=torch.Generator().manual_seed(0))
    state = torch.random.get_rng_state()
    first = bootstrap_interval(figures, seed=1)
    assert bootstrap_interval(figures, seed=1) == first != bootstrap_interval(figures, seed=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    monkeypatch.setattr(metrics, "_BLOCK", 50 * 77)  # 77 does not divide the resamples
    assert bootstrap_interval(figures, seed=1) == pytest.approx(first)


def test_interval_of_a_mean_of_means():
    """Drawn within each part: a large part weighs no more than a small one, and what is fixed stays so."""
    assert bootstrap_interval(torch.ones(9), torch.zeros(4)) == (50.0, 50.0)
    small, large = (torch.arange(size) % 2 for size in (100, 10_000))
    low, high = bootstrap_interval(small, large)
    half = 100 * 1.96 * math.sqrt(0.25 / 100 + 0.25 / 10_000) / 2
    assert (low, high) == pytest.approx((50 - half, 50 + half), abs=0.3)

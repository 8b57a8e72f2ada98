"""Ranks, recall and confidence intervals, each against a case by hand and against brute force."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation import metrics
from rtd_plugin.evaluation.metrics import bootstrap_interval, recall_at, subset_ranks, target_ranks

GALLERY = torch.tensor([[3.0, 0.0], [2.0, 1.0], [2.0, 1.0], [0.0, 3.0], [1.0, 1.0]])
QUERIES = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # scores 3 2 2 0 1 and 0 1 1 3 1


def test_ranks_by_hand():
    assert target_ranks(QUERIES, GALLERY, torch.tensor([0, 3])).tolist() == [1, 1]
    assert target_ranks(QUERIES, GALLERY, torch.tensor([1, 1])).tolist() == [3, 4]  # each tie counts against it
    assert target_ranks(QUERIES, GALLERY, torch.tensor([4, 0])).tolist() == [4, 5]
    excluded = torch.tensor([0, -1])
    assert target_ranks(QUERIES, GALLERY, torch.tensor([1, 1]), excluded).tolist() == [2, 4]
    assert target_ranks(QUERIES, GALLERY, torch.tensor([1, 1]), torch.tensor([2, 4])).tolist() == [2, 3]
    assert target_ranks(QUERIES[:0], GALLERY, torch.tensor([], dtype=torch.int64)).tolist() == []


def test_subset_ranks_by_hand():
    assert subset_ranks(QUERIES, GALLERY, torch.tensor([4, 1]), [(1, 3, 4), (1, 0)]).tolist() == [2, 1]
    assert subset_ranks(QUERIES, GALLERY, torch.tensor([4, 1]), [(4, 4, 4), (4, 3, 2, 1, 1)]).tolist() == [1, 4]


def test_recall_by_hand():
    ranks = torch.tensor([1, 2, 3, 10])
    assert [recall_at(ranks, k) for k in (1, 2, 5, 10)] == [25.0, 50.0, 75.0, 100.0]
    with pytest.raises(RTDError, match="without queries"):
        recall_at(ranks[:0], 1)


@settings(deadline=None, max_examples=100)
@given(data=st.data(), count=st.integers(0, 7), size=st.integers(2, 9), block=st.sampled_from([1, 20, 1000]))
def test_ranks_by_brute_force(data, count, size, block):
    """Small whole numbers: scores are exact and ties frequent, in blocks that do and do not divide."""
    seed = data.draw(st.integers(0, 2**16))
    generator = torch.Generator().manual_seed(seed)
    queries, gallery = (torch.randint(-2, 3, (rows, 3), generator=generator).float() for rows in (count, size))
    index = st.integers(0, size - 1)
    targets = data.draw(st.lists(index, min_size=count, max_size=count))
    excluded = [data.draw(st.integers(-1, size - 1).filter(target.__ne__)) for target in targets]
    subsets = [(*data.draw(st.lists(index, max_size=5)), target) for target in targets]

    def rank(row: int, candidates: set[int]) -> int:
        scores = [sum(a * b for a, b in zip(queries[row].tolist(), image, strict=True)) for image in gallery.tolist()]
        return 1 + sum(scores[each] >= scores[targets[row]] for each in candidates - {targets[row]})

    expected = [rank(row, set(range(size)) - {excluded[row]}) for row in range(count)]
    expected_in_subset = [rank(row, set(subsets[row])) for row in range(count)]
    index_of = torch.tensor(targets, dtype=torch.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "_BLOCK", block)
        ranks = target_ranks(queries, gallery, index_of, torch.tensor(excluded, dtype=torch.int64))
        assert ranks.tolist() == expected
        assert ranks.dtype == torch.int64
        assert subset_ranks(queries, gallery, index_of, subsets).tolist() == expected_in_subset
    for k in range(1, size + 1) if count else ():
        assert recall_at(ranks, k) == pytest.approx(100 * sum(each <= k for each in expected) / count)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_equal_images_tie_exactly_wherever_they_stand(dtype):
    """A bare matrix product rounds equal columns differently, which let a target overtake its own copies."""
    generator = torch.Generator().manual_seed(0)
    for count, size, width in itertools.product((1, 2, 7, 33), (2, 5, 17, 129), (3, 100, 768)):
        queries = torch.randn(count, width, generator=generator).to(dtype)
        gallery = torch.randn(1, width, generator=generator).repeat(size, 1).to(dtype)
        targets = torch.arange(count) % size
        assert target_ranks(queries, gallery, targets).tolist() == [size] * count
        assert subset_ranks(queries, gallery, targets, [range(size)] * count).tolist() == [size] * count


def test_blocks_give_the_ranks_of_one_product(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    queries, gallery = (torch.randint(-9, 9, (rows, 16), generator=generator).float() for rows in (101, 57))
    targets = torch.randint(57, (101,), generator=generator)
    whole = target_ranks(queries, gallery, targets)
    assert len(whole.unique()) > 20
    monkeypatch.setattr(metrics, "_BLOCK", 57 * 13)
    assert torch.equal(target_ranks(queries, gallery, targets), whole)


def test_wrong_input_is_named():
    targets = torch.tensor([0, 3])
    for value in (math.nan, math.inf):
        broken = QUERIES.clone()
        broken[1, 0] = value
        with pytest.raises(RTDError, match="a feature of query 1 is not a number or infinite"):
            target_ranks(broken, GALLERY, targets)
        broken = GALLERY.clone()
        broken[4, 1] = value
        with pytest.raises(RTDError, match="a feature of gallery image 4 is not a number"):
            subset_ranks(QUERIES, broken, targets, [(0,), (3,)])
    for index in (-1, 5):
        with pytest.raises(RTDError, match=f"target: no index {index} in a gallery of 5 images"):
            target_ranks(QUERIES, GALLERY, torch.tensor([0, index]))
        with pytest.raises(RTDError, match=f"target: no index {index} in a gallery of 5 images"):
            subset_ranks(QUERIES, GALLERY, torch.tensor([0, index]), [(0,), (3,)])
    with pytest.raises(RTDError, match="excluded image: no index 5"):
        target_ranks(QUERIES, GALLERY, targets, torch.tensor([-1, 5]))
    with pytest.raises(RTDError, match="the target of query 1 is excluded"):
        target_ranks(QUERIES, GALLERY, targets, torch.tensor([-1, 3]))
    for index in (-1, 9):
        with pytest.raises(RTDError, match=f"subset: no index {index} in"):
            subset_ranks(QUERIES, GALLERY, targets, [(0, index), (3,)])
    with pytest.raises(RTDError, match="the subset of query 1 lacks its target"):
        subset_ranks(QUERIES, GALLERY, targets, [(0, 1), ()])
    with pytest.raises(RTDError, match="2 queries need as many subsets, not 1"):
        subset_ranks(QUERIES, GALLERY, targets, [(0,)])
    with pytest.raises(RTDError, match="2 queries need as many targets, not 1"):
        target_ranks(QUERIES, GALLERY, targets[:1])
    with pytest.raises(RTDError, match="2 queries need as many excluded images, not 1"):
        target_ranks(QUERIES, GALLERY, targets, torch.tensor([4]))


def test_interval_by_hand():
    assert bootstrap_interval(torch.ones(7)) == (100.0, 100.0)
    hits = torch.tensor([1.0, 0.0, 1.0, 0.0])
    assert bootstrap_interval(hits, other=hits) == (0.0, 0.0)
    assert bootstrap_interval(hits, other=1 - hits, level=0.999) == (-100.0, 100.0)  # 2 of 256 samples each
    assert bootstrap_interval(hits + 1, other=hits) == (100.0, 100.0)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("paired", [False, True])
def test_interval_by_brute_force(level, paired):
    """All 5^5 samples of five queries, with figures that make hardly any two means alike."""
    figures = torch.tensor([0.0, 0.1, 0.27, 0.56, 1.0], dtype=torch.float64)
    other = torch.tensor([0.3, 0.0, 0.07, 0.9, 0.45], dtype=torch.float64) if paired else None
    differences = (figures - other if paired else figures).tolist()
    means = torch.tensor([100 * sum(sample) / 5 for sample in itertools.product(differences, repeat=5)])
    expected = [means.quantile((1 + side * level) / 2).item() for side in (-1, 1)]
    assert bootstrap_interval(figures, other=other, level=level, resamples=40_000) == pytest.approx(expected, abs=0.7)


def test_interval_of_hits_follows_the_normal_approximation():
    hits = (torch.arange(2000) % 10 < 3).float()
    half = 100 * 1.96 * math.sqrt(0.3 * 0.7 / 2000)
    assert bootstrap_interval(hits) == pytest.approx((30 - half, 30 + half), abs=0.12)
    other = hits.clone()
    other[:100] = 1 - other[:100]  # 70 lost, 30 won: a difference of -2 points
    deviation = math.sqrt(100 / 2000 - 0.02**2)
    half = 100 * 1.96 * deviation / math.sqrt(2000)
    assert bootstrap_interval(hits, other=other) == pytest.approx((-2 - half, -2 + half), abs=0.06)


def test_interval_covers_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    samples = (torch.rand(400, 150, generator=generator) < 0.3).float()
    intervals = [bootstrap_interval(hits, resamples=1000, level=0.9) for hits in samples]
    covered = sum(low <= 30 <= high for low, high in intervals) / len(intervals)
    assert 0.85 < covered < 0.95


def test_interval_depends_on_its_seed_alone(monkeypatch):
    figures = torch.rand(50, generator=torch.Generator().manual_seed(0))
    state = torch.random.get_rng_state()
    first = bootstrap_interval(figures, seed=1)
    assert bootstrap_interval(figures, seed=1) == first != bootstrap_interval(figures, seed=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    monkeypatch.setattr(metrics, "_BLOCK", 50 * 77)  # 77 does not divide the resamples
    assert bootstrap_interval(figures, seed=1) == pytest.approx(first)


def test_interval_refuses_what_has_no_mean():
    with pytest.raises(RTDError, match="at least one query"):
        bootstrap_interval(torch.tensor([]))
    with pytest.raises(RTDError, match="a number for each"):
        bootstrap_interval(torch.tensor([1.0, math.nan]))
    with pytest.raises(RTDError, match="same queries, not 2 and 3"):
        bootstrap_interval(torch.ones(2), other=torch.ones(3))

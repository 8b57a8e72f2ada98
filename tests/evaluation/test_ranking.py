"""Rankings, compared with cases by hand and with brute force."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation import ranking
from rtd_plugin.evaluation.ranking import Gallery, open_gallery

GALLERY = torch.tensor([[3.0, 0.0], [2.0, 1.0], [2.0, 1.0], [0.0, 3.0], [1.0, 1.0]])
QUERIES = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # scores 3 2 2 0 1 and 0 1 1 3 1


def first_ranks(targets, **options):
    return Gallery(GALLERY).rank(QUERIES, [[target] for target in targets], **options).first.tolist()


def test_ranks_equal_those_by_hand():
    assert first_ranks([0, 3]) == [1, 1]
    assert first_ranks([1, 1]) == [3, 4]  # each tie counts against the target
    assert first_ranks([4, 0]) == [4, 5]
    assert first_ranks([1, 1], excluded=[0, -1]) == [2, 4]
    assert first_ranks([1, 1], excluded=[2, 4]) == [2, 3]
    assert first_ranks([4, 1], candidates=[(1, 3, 4), (1, 0)]) == [2, 1]
    assert first_ranks([4, 1], candidates=[(4, 4, 4), (4, 3, 2, 1, 1)]) == [1, 4]
    assert first_ranks([4, 1], candidates=[(), (1, 0)]) == [4, 1]


def test_ranks_of_several_targets_equal_those_by_hand():
    """Other targets do not lower a target's rank in `ranks`, but do in `first`."""
    rankings = Gallery(GALLERY).rank(QUERIES, [[2, 0, 1], [4]])
    assert rankings.ranks.tolist() == [[1, 2, 3], [4, 0, 0]]
    assert rankings.first.tolist() == [3, 4]
    assert Gallery(GALLERY).rank(QUERIES, [[], []]).ranks.tolist() == [[0], [0]]
    assert Gallery(GALLERY).rank(QUERIES, [[], []]).first.tolist() == [0, 0]


def test_the_top_equals_one_by_hand():
    """Among equal scores targets come last, and the first target at the end."""
    rankings = Gallery(GALLERY).rank(QUERIES, [[1], [2, 1]], depth=9)
    assert rankings.top.tolist() == [[0, 2, 1, 4, 3], [3, 4, 1, 2, 0]]
    assert rankings.scores.tolist() == [[3, 2, 2, 1, 0], [3, 1, 1, 1, 0]]
    rankings = Gallery(GALLERY).rank(QUERIES, [[], []], excluded=[0, -1], candidates=[(0, 1, 4), ()], depth=3)
    assert rankings.top.tolist() == [[1, 4, -1], [3, 1, 2]]


@settings(deadline=None, max_examples=150)
@given(data=st.data(), count=st.integers(1, 7), size=st.integers(2, 9), block=st.sampled_from([1, 20, 1000]))
def test_rankings_equal_those_by_brute_force(data, count, size, block):
    """Small integers: scores are exact and ties frequent."""
    seed = data.draw(st.integers(0, 2**16))
    generator = torch.Generator().manual_seed(seed)
    queries, gallery = (torch.randint(-2, 3, (rows, 3), generator=generator).float() for rows in (count, size))
    index = st.integers(0, size - 1)
    targets = data.draw(st.lists(st.lists(index, max_size=4, unique=True), min_size=count, max_size=count))
    excluded = [data.draw(st.integers(-1, size - 1).filter(lambda row, some=some: row not in some)) for some in targets]
    candidates = [(*data.draw(st.lists(index, max_size=5)), *some) for some in targets]
    depth = data.draw(st.integers(0, size + 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "QUERIES", 3)
        patch.setattr(ranking, "BLOCK", block)
        rankings = Gallery(gallery).rank(queries, targets, excluded=excluded, candidates=candidates, depth=depth)
    for row, wanted in enumerate(targets):
        scores = [sum(a * b for a, b in zip(queries[row].tolist(), image, strict=True)) for image in gallery.tolist()]
        ranked = (set(candidates[row]) or set(range(size))) - {excluded[row]}
        tie_order = {image: 2 if image == wanted[0] else 1 for image in wanted}
        order = sorted(ranked, key=lambda image, s=scores, k=tie_order: (-s[image], k.get(image, 0), image))
        assert rankings.top[row].tolist() == (order + [-1] * size)[: min(depth, size)]
        ranks = sorted(1 + order.index(image) for image in wanted)
        assert rankings.ranks[row].tolist() == ranks + [0] * (rankings.ranks.shape[1] - len(ranks))
        assert rankings.first[row] == (1 + order.index(wanted[0]) if wanted else 0)
    assert rankings.first.dtype == rankings.ranks.dtype == rankings.top.dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_equal_images_tie_exactly_wherever_they_stand(dtype):
    """A bare matrix product rounds equal columns differently, which let a target overtake its own copies."""
    generator = torch.Generator().manual_seed(0)
    for count, size, width in itertools.product((1, 2, 7, 33), (2, 5, 17, 129), (3, 100, 768)):
        queries = torch.randn(count, width, generator=generator).to(dtype)
        gallery = Gallery(torch.randn(1, width, generator=generator).repeat(size, 1).to(dtype))
        targets = [[row % size] for row in range(count)]
        rankings = gallery.rank(queries, targets, depth=size)
        assert rankings.first.tolist() == [size] * count
        assert rankings.top[:, -1].tolist() == [target for (target,) in targets]


def test_blocks_give_the_ranks_of_one_product(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    queries, gallery = (torch.randint(-9, 9, (rows, 16), generator=generator).float() for rows in (101, 57))
    targets = torch.randint(57, (101, 1), generator=generator).tolist()
    whole = Gallery(gallery).rank(queries, targets, depth=20)
    assert len(whole.first.unique()) > 20
    monkeypatch.setattr(ranking, "BLOCK", 57 * 13)
    blocks = Gallery(gallery).rank(queries, targets, depth=20)
    assert torch.equal(blocks.first, whole.first)
    assert torch.equal(blocks.top, whole.top)


class OnDisk:
    """Features that are copied when they are asked for; remembers how many rows at most."""

    device = torch.device("cpu")

    def __init__(self, features):
        self.shape, self._features, self.most = features.shape, features, 0

    def __getitem__(self, rows):
        copied = self._features[rows].clone()
        self.most = max(self.most, len(copied))
        return copied


@pytest.mark.parametrize("count", [1, 33])
@pytest.mark.parametrize("limit", [0, 2**28])
def test_features_in_a_file_are_ranked_as_those_in_memory(monkeypatch, count, limit):
    """To the last digit, with copies of images, and holding few of them at once."""
    monkeypatch.setattr(ranking, "BLOCK", 100 * 64)
    monkeypatch.setattr(ranking, "IN_MEMORY", limit)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(530, 64, generator=generator)
    features[[500, 501, 7, 321]] = features[[3, 3, 6, 320]]
    queries = torch.randn(count, 64, generator=generator)
    targets = [[(31 * row) % 520, (31 * row + 3) % 520] for row in range(count)]
    expected = Gallery(torch.nn.functional.normalize(features[:520], dim=-1)).rank(queries, targets, depth=20)
    on_disk = OnDisk(features)
    rankings = open_gallery(on_disk, 520, torch.device("cpu")).rank(queries, targets, depth=20)
    for name in ("ranks", "first", "top", "scores"):
        assert torch.equal(getattr(rankings, name), getattr(expected, name)), name
    assert (on_disk.most <= 100) == (limit == 0)


def test_blocks_may_have_more_or_fewer_targets(monkeypatch):
    monkeypatch.setattr(ranking, "BLOCK", 5)
    rankings = Gallery(GALLERY).rank(QUERIES, [[0], [3, 1, 2]])
    assert rankings.ranks.tolist() == [[1, 0, 0], [1, 3, 4]]


def test_features_that_are_not_finite_are_named():
    gallery = Gallery(GALLERY)
    for value in (math.nan, math.inf):
        broken = QUERIES.clone()
        broken[1, 0] = value
        with pytest.raises(RTDError, match="a feature of query 1 is not finite"):
            gallery.rank(broken, [[0], [3]])
        broken = GALLERY.clone()
        broken[4, 1] = value
        with pytest.raises(RTDError, match="a feature of gallery image 4 is not finite"):
            Gallery(broken)

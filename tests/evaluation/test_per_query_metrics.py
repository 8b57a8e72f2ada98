"""Metrics, intervals and gains from the metrics of each query."""

from types import SimpleNamespace

import pytest
import torch

from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation.benchmark import Query
from rtd_plugin.evaluation.ranking import Rankings
from rtd_plugin.evaluation.retrieval import RetrievalResult

GROUPS = [("a",), ("b",), (), ("b",)]


def rankings(first, ranks=None):
    empty = torch.zeros(4, 0)
    return Rankings(torch.tensor(ranks or [[rank] for rank in first]), torch.tensor(first), empty, empty)


def compute(first, subset, groups=GROUPS, ranks=None, recall_at=(1, 5, 10), map_at=(), averages_groups=False):
    benchmark = SimpleNamespace(
        recall_at=recall_at,
        subset_recall_at=(1,),
        map_at=map_at,
        spread_at=(),
        averages_groups=averages_groups,
        recall_of_any_target=False,
    )
    queries = [Query("a", ("b",), ("c",), groups=each) for each in groups]
    result = RetrievalResult(benchmark, queries, [], rankings(first, ranks), rankings(subset) if subset else None)
    return result.per_query


def test_a_group_named_like_a_metric_is_refused():
    with pytest.raises(RTDError, match="a group of queries has the name of a metric, 'recall_at_1'"):
        compute([1, 2, 6, 11], None, groups=[("recall_at_1",), ("b",), (), ("b",)])


BETTER = compute([1, 2, 6, 11], [1, 1, 2, 1])
WORSE = compute([2, 2, 11, 11], [1, 2, 2, 2])


def test_metrics_equal_those_by_hand():
    """A query without a group counts only for all queries."""
    assert BETTER.compute_metrics() == {
        "recall_at_1": 25.0,
        "recall_at_5": 50.0,
        "recall_at_10": 75.0,
        "subset_recall_at_1": 75.0,
        "a": {"recall_at_1": 100.0, "recall_at_5": 100.0, "recall_at_10": 100.0, "subset_recall_at_1": 100.0},
        "b": {"recall_at_1": 0.0, "recall_at_5": 50.0, "recall_at_10": 50.0, "subset_recall_at_1": 100.0},
    }


def test_groups_are_averaged():
    """A group of three queries counts as much as one of one."""
    averaged = compute([1, 2, 6, 11], [1, 1, 2, 1], [("a",), ("b",), ("b",), ("b",)], averages_groups=True)
    assert averaged.compute_metrics()["recall_at_1"] == 50.0
    assert averaged.compute_metrics()["recall_at_5"] == pytest.approx((100 + 100 / 3) / 2)
    low, high = averaged.compute_intervals()["recall_at_1"].values()
    assert (low, high) == (50.0, 50.0)  # within each group, all queries are alike


def test_mean_average_precision_equals_that_by_hand():
    ranks = [[1, 3], [2, 3], [2, 0], [0, 0]]
    measured = compute([1, 3, 2, 0], None, ranks=ranks, recall_at=(2,), map_at=(5,)).compute_metrics()
    expected = 100 * (((1 + 2 / 3) / 2) + ((1 / 2 + 2 / 3) / 2) + 1 / 2 + 0) / 4
    assert measured["map_at_5"] == pytest.approx(expected)
    assert measured["recall_at_2"] == 50.0
    assert measured["a"]["map_at_5"] == pytest.approx(100 * (1 + 2 / 3) / 2)


def test_a_query_counts_in_each_of_its_groups():
    found = compute([1, 2, 6, 11], [1, 1, 2, 1], [("a", "b"), ("b",), ("a",), ("b", "a")]).compute_metrics()
    assert found["a"]["recall_at_10"] == pytest.approx(200 / 3)
    assert found["b"]["recall_at_5"] == pytest.approx(200 / 3)


def test_gains_equal_those_by_hand():
    """The interval is paired: if every query gains the same, it has no width."""
    gain = BETTER.compute_gain(WORSE)
    assert {name: value["difference"] for name, value in gain.items() if name not in "ab"} == {
        "recall_at_1": 25.0,
        "recall_at_5": 0.0,
        "recall_at_10": 25.0,
        "subset_recall_at_1": 50.0,
    }
    assert gain["recall_at_1"]["low"] == 0 < 25 < gain["recall_at_1"]["high"] <= 100
    assert gain["recall_at_5"] == {"difference": 0.0, "low": 0.0, "high": 0.0}
    assert gain["a"]["recall_at_1"] == {"difference": 100.0, "low": 100.0, "high": 100.0}
    assert gain["b"]["subset_recall_at_1"] == {"difference": 100.0, "low": 100.0, "high": 100.0}
    assert WORSE.compute_gain(BETTER)["recall_at_1"]["difference"] == -25.0


def test_intervals_contain_their_metric():
    metrics, intervals = BETTER.compute_metrics(), BETTER.compute_intervals()
    for name in ("recall_at_1", "recall_at_5", "recall_at_10"):
        assert 0 <= intervals[name]["low"] < metrics[name] < intervals[name]["high"] <= 100
    assert intervals["a"]["recall_at_1"] == {"low": 100.0, "high": 100.0}

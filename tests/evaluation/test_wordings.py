"""Several wordings of a request, several targets and wrong answers: metrics equal those computed by hand."""

import json
from math import sqrt

import pytest
import torch

from rtd_plugin.contract import plugins
from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation.benchmark import Query
from rtd_plugin.evaluation.benchmarks.folder import Folder
from rtd_plugin.evaluation.comparison_table import Cell, shorten_metric
from rtd_plugin.evaluation.metrics import PerQueryMetrics, bootstrap_interval
from rtd_plugin.evaluation.ranking import Rankings
from rtd_plugin.evaluation.retrieval import RetrievalResult


def measure(hits, requests, groups=None):
    values = {"recall_at_1": torch.tensor(hits, dtype=torch.float64)}
    return PerQueryMetrics(values, groups or [()] * len(hits), requests=requests, spread_of=["recall_at_1"])


def test_spread_and_worst_wording():
    """Of requests with three, two, and a single wording; the last has no spread."""
    metrics = measure([1, 0, 1, 1, 1, 0], ["a", "a", "a", "b", "b", ""]).compute_metrics()
    assert metrics["recall_at_1"] == pytest.approx(100 * 4 / 6)
    assert metrics["spread_of_recall_at_1"] == pytest.approx(100 * sqrt(2) / 3 / 2)
    assert metrics["worst_recall_at_1"] == pytest.approx(100 / 3)


def test_the_wordings_of_a_group_are_compared_within_it():
    groups = [("x",), ("x",), (), (), (), ("x", "y")]
    metrics = measure([1, 0, 1, 1, 1, 0], ["a", "a", "a", "b", "b", ""], groups).compute_metrics()
    assert metrics["x"] == pytest.approx({"recall_at_1": 100 / 3, "spread_of_recall_at_1": 50, "worst_recall_at_1": 0})
    assert metrics["y"] == {"recall_at_1": 0, "spread_of_recall_at_1": 0, "worst_recall_at_1": 0}


def test_wordings_of_a_request_are_drawn_together():
    """If all requests are alike, there is no doubt, however their wordings differ."""
    requests = [str(index // 2) for index in range(40)]
    assert measure([1, 0] * 20, requests).compute_intervals()["recall_at_1"] == {"low": 50, "high": 50}
    alone = measure([1, 0] * 20, [""] * 40).compute_intervals()["recall_at_1"]
    assert alone["low"] < 40 < 60 < alone["high"]


def test_requests_count_by_their_wordings():
    """Two requests of one and three wordings: a resample has the means 1, 1/4, 1/4 and 0."""
    values, weights = torch.tensor([1.0, 0.0]), [torch.tensor([1.0, 3.0])]
    assert bootstrap_interval(values, weights=weights, level=0.4) == (25, 25)
    assert bootstrap_interval(values, weights=weights, level=0.9) == (0, 100)


def test_the_gain_in_spread_is_paired():
    requests = ["a", "a", "b", "b"]
    gain = measure([1, 1, 1, 1], requests).compute_gain(measure([1, 0, 0, 1], requests))
    assert gain["spread_of_recall_at_1"] == {"difference": -50, "low": -50, "high": -50}
    assert gain["worst_recall_at_1"] == {"difference": 100, "low": 100, "high": 100}


class Bench(Folder):
    """Metrics among the first two and three."""

    recall_at = (1, 2)
    subset_recall_at = ()
    map_at = (2,)
    wrong_at = (1, 3)
    spread_at = (2,)


def make_result(queries, *tops):
    """Return the result of rankings that are given by images' names, best first."""
    names = sorted({name for top in tops for name in top})
    ranks = [
        sorted(top.index(target) + 1 for target in query.targets) for query, top in zip(queries, tops, strict=True)
    ]
    first = [top.index(query.targets[0]) + 1 for query, top in zip(queries, tops, strict=True)]
    columns = torch.tensor([[names.index(name) for name in top] for top in tops])
    padded = torch.tensor([row + [0] * (2 - len(row)) for row in ranks])
    rankings = Rankings(padded, torch.tensor(first), columns, columns.double())
    return RetrievalResult(Bench(data="."), queries, names, rankings, None)


QUERIES = [
    Query("r", ("is red",), ("a", "b"), request="1", wrong=("x", "y", "z")),
    Query("r", ("in red",), ("a", "b"), request="1", wrong=("x", "y", "z")),
    Query("s", ("is big",), ("b",)),
]
RESULT = make_result(QUERIES, "bxayz", "xybaz", "axbyz")


def test_wrong_answers_and_several_targets():
    """Of the first query, b is at 1 and a at 3, x at 2 and y at 4; of the second, x and y are first; z is last."""
    assert RESULT.target_ranks.tolist() == [1, 3, 3]
    assert RESULT.wrong_ranks == [[2, 4, 5], [1, 2, 5], []]
    assert RESULT.compute_metrics() == pytest.approx(
        {
            "recall_at_1": 100 / 3,
            "recall_at_2": 100 / 3,
            "map_at_2": 100 * (1 / 2 + 0 + 0) / 3,
            "wrong_at_1": 100 * (0 + 1 + 0) / 3,
            "wrong_at_3": 100 * (1 / 3 + 2 / 3 + 0) / 3,
            "spread_of_recall_at_2": 50,
            "spread_of_map_at_2": 25,
            "worst_recall_at_2": 0,
            "worst_map_at_2": 0,
        }
    )


def test_the_fields_benchmarks_count_the_first_target(monkeypatch):
    monkeypatch.setattr(Bench, "recall_of_any_target", False)
    assert RESULT.target_ranks.tolist() == [3, 4, 3]


def test_without_wordings_and_wrong_answers_there_are_no_such_metrics():
    queries = [Query("r", ("is red",), ("a",), request="1"), Query("r", ("is red",), ("a",))]
    assert list(make_result(queries, "ab", "ba").compute_metrics()) == ["recall_at_1", "recall_at_2", "map_at_2"]


def test_less_spread_and_fewer_wrong_answers_are_better():
    assert Cell(-2.0, -3.0, -1.0, lower_is_better=True).trend == "better"
    assert Cell(2.0, 1.0, 3.0, lower_is_better=True).trend == "worse"
    assert Cell(-2.0, -3.0, -1.0).trend == "worse"
    assert Cell(-2.0, -3.0, 1.0, lower_is_better=True).trend == ""
    assert list(map(shorten_metric, ("spread_of_map_at_10", "worst_recall_at_1", "wrong_at_10"))) == [
        "spread mAP@10",
        "worst R@1",
        "wrong@10",
    ]


@pytest.fixture
def read_folder(tmp_path, write_dataset):
    write_dataset("folder", tmp_path)
    (tmp_path / "queries.csv").unlink()

    def read(content, name="queries.jsonl"):
        (tmp_path / name).write_text(content)
        return plugins.find_benchmark("folder")(data=str(tmp_path)).queries()

    return read


def test_a_folder_has_requests_and_wrong_answers(read_folder):
    """The reference is not ranked, so it is no wrong answer."""
    first, second = read_folder(
        "reference,condition,target,request,wrong\n"
        "0.png,is red,1.png;2.png,red one,3.png;0.png;3.png\n"
        "0.png,make it red,1.png;2.png,red one,3.png\n",
        "queries.csv",
    )
    assert first.request == second.request == "red one"
    assert first.targets == ("1.png", "2.png")
    assert first.wrong == second.wrong == ("3.png",)


def test_a_target_that_is_a_wrong_answer_is_refused(read_folder):
    query = {"reference": "0.png", "condition": "is red", "target": "1.png", "wrong": ["2.png", "1.png"]}
    with pytest.raises(RTDError, match=r"queries.jsonl, line 1: 1.png is a target and a wrong answer"):
        read_folder(json.dumps(query))
    with pytest.raises(RTDError, match=r"line 1: no image 9.png"):
        read_folder(json.dumps(query | {"wrong": "9.png"}))


def test_wordings_of_the_miniature():
    """Six different wordings of each request in its group's phrasings; the first is that of the plain benchmark."""
    make = plugins.find_benchmark("miniature")
    plain, queries = make().queries(), make(wordings=6).queries()
    assert [query.conditions for query in queries[::6]] == [query.conditions for query in plain]
    assert len({(query.request, query.conditions) for query in queries}) == len(queries) == 6000
    assert len({query.request for query in queries}) == 1000
    assert {(query.request, query.groups, query.targets, query.wrong) for query in queries} == {
        (str(index), query.groups, query.targets, query.subset[1:]) for index, query in enumerate(plain)
    }
    assert not any(query.wrong or query.request for query in plain)

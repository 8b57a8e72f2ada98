"""Comparisons of the pre-trained and tuned text encoders."""

import json
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from rtd_plugin.evaluation.benchmark import Benchmark, Query
from rtd_plugin.evaluation.comparison import compare
from rtd_plugin.evaluation.ranking import Rankings
from rtd_plugin.evaluation.retrieval import RetrievalResult

FROZEN, TUNED, OTHER = object(), object(), object()
WEIGHTS, ELSEWHERE = Path("runs/a/text_encoder.safetensors"), Path("runs/b/text_encoder.safetensors")


class Files(Benchmark):
    name: ClassVar[str] = "files"
    excludes_reference: ClassVar[bool] = True
    recall_at: ClassVar[tuple[int, ...]] = (1,)

    data: Path
    split: str = "val"

    def queries(self):
        groups = ("seen", "seen", "unseen", "unseen")
        return [Query("a", ("is red",), ("b",), groups=(group,)) for group in groups]

    def gallery(self):
        return ["a", "b", "c"]

    def image(self, name):
        raise NotImplementedError


class Retrieval:
    """Made-up ranks of every query."""

    benchmark = Files(data="somewhere")
    name = title = "files"
    unreadable: ClassVar = {}
    queries = benchmark.queries()
    names = benchmark.gallery()

    def rank(self, *first):
        ranks = torch.tensor(first)
        rankings = Rankings(ranks[:, None], ranks, torch.zeros(4, 0), torch.zeros(4, 0))
        return RetrievalResult(self.benchmark, self.queries, self.names, rankings, None)

    def rank_by_image(self):
        return self.rank(3, 3, 3, 3)

    def rank_by_condition(self, tower):
        assert tower is FROZEN
        return self.rank(1, 3, 3, 3)

    def rank_composed(self, tower):
        return self.rank(*{FROZEN: (1, 2, 2, 2), TUNED: (1, 1, 1, 2), OTHER: (2, 2, 2, 2)}[tower])

    def rank_by_target_caption(self, tower):
        assert tower is FROZEN
        return self.rank(1, 1, 1, 1)


@pytest.fixture
def figures():
    return compare(Retrieval(), FROZEN, {WEIGHTS: lambda: TUNED, ELSEWHERE: lambda: OTHER}).to_dict()


def recall(rows):
    return [(row["query"], row["weights"], row["metrics"]["files"]["recall_at_1"]) for row in rows]


def test_each_type_of_query_has_its_metrics(figures):
    assert recall(figures["results"]) == [
        ("composed", None, 25.0),
        ("composed", str(WEIGHTS), 75.0),
        ("composed", str(ELSEWHERE), 0.0),
    ]
    assert recall(figures["baselines"]) == [
        ("image only", None, 0.0),
        ("text only", None, 25.0),
        ("target caption", None, 100.0),
    ]
    assert [row["name"] for row in figures["results"]] == ["pre-trained", "a", "b"]


def test_gain_is_over_the_pre_trained_encoder(figures):
    frozen, tuned, other = figures["results"]
    assert "gain" not in frozen
    gain = tuned["gain"]["files"]
    assert gain["recall_at_1"]["difference"] == 50.0
    assert gain["seen"]["recall_at_1"]["difference"] == 50.0
    assert gain["unseen"]["recall_at_1"]["difference"] == 50.0
    assert gain["recall_at_1"]["low"] <= 50 <= gain["recall_at_1"]["high"]
    assert other["gain"]["files"]["recall_at_1"]["difference"] == -25.0


def test_the_benchmark_and_its_options_are_recorded(figures):
    assert {key: figures[key] for key in ("benchmark", "data", "split", "queries", "gallery")} == {
        "benchmark": "files",
        "data": "somewhere",
        "split": "val",
        "queries": 4,
        "gallery": 3,
    }
    assert json.loads(json.dumps(figures)) == figures


def test_tuned_towers_are_loaded_one_after_the_other():
    """The second is loaded after the first."""
    loaded = []
    compare(
        Retrieval(), FROZEN, {WEIGHTS: lambda: loaded.append(1) or TUNED, ELSEWHERE: lambda: OTHER if loaded else 0}
    )


def test_names_of_equal_runs_are_their_paths():
    both = {
        Path("x/run/text_encoder.safetensors"): lambda: TUNED,
        Path("y/run/text_encoder.safetensors"): lambda: OTHER,
    }
    names = [row.name for row in compare(Retrieval(), FROZEN, both).results]
    assert names == ["pre-trained", *map(str, both)]


def test_progress_counts_the_types_of_queries():
    calls = []
    compare(Retrieval(), FROZEN, {WEIGHTS: lambda: TUNED}, lambda done, total: calls.append((done, total)))
    assert calls == [(number, 5) for number in range(1, 6)]


def test_without_target_captions_there_is_no_such_row(monkeypatch):
    monkeypatch.setattr(Retrieval, "rank_by_target_caption", lambda self, tower: None)
    comparison = compare(Retrieval(), FROZEN, {WEIGHTS: lambda: TUNED})
    assert [row.query for row in comparison.baselines] == ["image only", "text only"]

"""Before and after on one benchmark."""

import json
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from rtd_plugin.evaluation.benchmark import Benchmark, Query
from rtd_plugin.evaluation.comparison import compare
from rtd_plugin.evaluation.retrieval import Ranks

FROZEN, TUNED = object(), object()
WEIGHTS = Path("run/text_encoder.safetensors")


class Files(Benchmark):
    name: ClassVar[str] = "files"
    excludes_reference: ClassVar[bool] = True

    data: Path
    split: str = "val"

    def queries(self):
        return [Query("a", "is red", "b")] * 4

    def gallery(self):
        return ["a", "b", "c"]

    def image(self, name):
        raise NotImplementedError


def ranks(*overall: int) -> Ranks:
    return Ranks(torch.tensor(overall), None, ["seen", "seen", "unseen", "unseen"])


class Retrieval:
    """Every query's ranks, made up."""

    benchmark = Files(data="somewhere")
    queries = benchmark.queries()
    names = benchmark.gallery()

    def image_only(self):
        return ranks(3, 3, 3, 3)

    def text_only(self, tower):
        assert tower is FROZEN
        return ranks(1, 3, 3, 3)

    def composed(self, tower):
        return ranks(1, 1, 1, 2) if tower is TUNED else ranks(1, 2, 2, 2)

    def target_captions(self, tower):
        assert tower is FROZEN
        return ranks(1, 1, 1, 1)


@pytest.fixture
def figures():
    return compare(Retrieval(), FROZEN, TUNED, WEIGHTS).to_dict()


def test_every_way_to_query(figures):
    rows = [(row["query"], row["weights"], row["metrics"]["files"]["recall_at_1"]) for row in figures["results"]]
    assert rows == [
        ("image only", None, 0.0),
        ("text only", None, 25.0),
        ("composed", None, 25.0),
        ("composed", str(WEIGHTS), 75.0),
        ("target caption", None, 100.0),
    ]


def test_gain_is_that_of_composed_queries(figures):
    gain = figures["gain"]["files"]
    assert gain["recall_at_1"]["difference"] == 50.0
    assert gain["seen"]["recall_at_1"]["difference"] == 50.0
    assert gain["unseen"]["recall_at_1"]["difference"] == 50.0
    assert gain["recall_at_1"]["low"] <= 50 <= gain["recall_at_1"]["high"]


def test_says_what_was_measured(figures):
    assert {key: figures[key] for key in ("benchmark", "data", "split", "queries", "gallery")} == {
        "benchmark": "files",
        "data": "somewhere",
        "split": "val",
        "queries": 4,
        "gallery": 3,
    }
    assert json.loads(json.dumps(figures)) == figures


def test_without_target_captions(monkeypatch):
    monkeypatch.setattr(Retrieval, "target_captions", lambda self, tower: None)
    rows = compare(Retrieval(), FROZEN, TUNED, WEIGHTS).rows
    assert [row.query for row in rows] == ["image only", "text only", "composed", "composed"]

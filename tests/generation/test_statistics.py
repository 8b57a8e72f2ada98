"""Statistics of triplets, compared with cases worked by hand."""

import json
import random
from collections import Counter

import pytest

from rtd_plugin.errors import RTDError
from rtd_plugin.generation.statistics import (
    compute_divergence,
    compute_profile,
    compute_statistics,
    find_changes,
    find_nearest,
    measure_distance,
    read_conditions,
)
from rtd_plugin.triplets.triplet import Triplet

TRIPLETS = [
    Triplet("a red dog runs", "is blue", "a blue dog runs"),
    Triplet("a red dog runs", "Is on the grass.", "a red dog runs on the grass"),
    Triplet("two cats", "only one cat", "a cat"),
]


def test_statistics_of_three_triplets():
    found = compute_statistics(TRIPLETS, {"real": ["is blue", "is red"]})
    assert found["triplets"] == 3
    assert found["distinct"] == {"reference": 2, "condition": 3, "target": 3}
    assert found["tokens"]["condition"] == {4: 1, 5: 1, 7: 1}  # with start and end, and the full stop
    assert found["condition_words"] == {2: 1, 3: 1, 4: 1}
    assert found["openings"] == [{"words": "is", "count": 2}, {"words": "only", "count": 1}]
    assert {"from": "red", "to": "blue", "count": 1} in found["edits"]
    assert {"from": "", "to": "on the grass", "count": 1} in found["edits"]
    assert found["nearest"][0] == {"condition": "is blue", "real": "is blue", "similarity": 1.0}
    assert found["real"]["real"]["words_known"] == 0.75  # of is, blue, is, red


def test_changes_are_runs_of_words():
    assert find_changes("A dog, on grass", "a cat on the grass .") == [("dog", "cat"), ("", "the")]
    assert find_changes("a dog", "a dog") == []


@pytest.mark.parametrize(
    ("first", "second", "bits"),
    [("aabb", "ab", 0.0), ("a", "b", 1.0), ("ab", "a", 0.311278), ("", "a", 1.0), ("", "", 0.0)],
)
def test_divergence(first, second, bits):
    assert compute_divergence(Counter(first), Counter(second)) == pytest.approx(bits, abs=1e-6)
    assert compute_divergence(Counter(second), Counter(first)) == pytest.approx(bits, abs=1e-6)


def test_the_distance_of_conditions_from_themselves_is_zero():
    texts = ["is red", "show two dogs", "is on grass"]
    found = measure_distance(compute_profile(texts), texts)
    assert (found["length"], found["openings"], found["vocabulary"], found["words_known"]) == (0, 0, 0, 1)


def test_nearest_is_the_best_of_all():
    real = ["make the dog red", "a red dog", "two cats", "is more colorful"]
    found = find_nearest(["make the dog blue", "two red cats", "zzz"], real, random.Random(0))
    assert {row["condition"]: row["real"] for row in found} == {
        "make the dog blue": "make the dog red",
        "two red cats": "two cats",
    }


def test_conditions_of_every_benchmark(tmp_path):
    files = {
        "cirr": [{"pairid": 1, "caption": "is red"}],
        "fashioniq": [{"candidate": "x", "captions": ["is red", "is shorter"]}],
        "circo": [{"relative_caption": "is red", "shared_concept": "a dog"}],
        "genecis": [{"condition": "dog", "reference": {}}],
    }
    for name, records in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(records))
    (tmp_path / "own.txt").write_text("is red\n\nis blue\n")
    assert read_conditions(tmp_path / "fashioniq.json") == ["is red", "is shorter"]
    assert [len(read_conditions(tmp_path / f"{name}.json")) for name in files] == [1, 2, 1, 1]
    assert read_conditions(tmp_path / "own.txt") == ["is red", "is blue"]
    (tmp_path / "none.json").write_text('[{"text": "is red"}]')
    with pytest.raises(RTDError, match="holds no conditions"):
        read_conditions(tmp_path / "none.json")

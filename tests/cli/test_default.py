"""The shipped default: `rtd-plugin train --adapter NAME` with no other options but fewer steps and triplets."""

import json

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["lincir", "pic2word", "searle"])
def test_miniature(rtd, tmp_path, adapter):
    done = rtd("train", "--adapter", adapter, "--set", "steps=3", "--set", "triplets.0.count=1000", "--json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["run"] == f"runs/{adapter}-miniature"
    assert (tmp_path / f"runs/{adapter}-miniature/text_encoder.safetensors").is_file()
    evaluation = result["evaluation"]
    assert evaluation["benchmark"] == "miniature"
    rows = [*evaluation["results"], *evaluation["baselines"]]
    metrics = {(row["query"], bool(row["weights"])): row["metrics"]["miniature"] for row in rows}
    ways = [
        ("composed", False),
        ("composed", True),
        ("image only", False),
        ("text only", False),
        ("target caption", False),
    ]
    assert list(metrics) == ways
    names = {"recall_at_1", "recall_at_5", "recall_at_10", "subset_recall_at_1"}
    for value in [*metrics.values(), evaluation["results"][1]["gain"]["miniature"]]:
        assert value.keys() == names | {"seen", "unseen"}
        assert value["seen"].keys() == value["unseen"].keys() == names
    # Three steps change little, but the shipped weights are trained.
    assert metrics["target caption", False]["recall_at_5"] > metrics["text only", False]["recall_at_5"]

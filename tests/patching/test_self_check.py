"""The comparison of a host's function with an exact encoding, on a tiny host."""

import sys

import pytest

from rtd_plugin.patching.self_check import check

HOST = """
import torch
from clip.model import CLIP
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.contract import Composition

def encode(model, text, tokens):
    tower = TextTower.from_state_dict(model.state_dict())
    features, states = tower.encode_with_hidden_states(text, tokens, 5)
    return RESULT

def read(model, text, tokens):
    return Composition(model, text, tokens, placeholder=5, hidden_states=True)

def example(module):
    texts = torch.tensor([[298, 5, 7, 299, 0, 0, 0, 0]])
    return CLIP(32, 16, 1, 64, 16, 8, 300, 64, 1, 2).eval(), texts, torch.randn(1, 64)
"""


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        ("(features, states)", "exact"),
        ("(-features, states)", "wrong"),
        ("features", "exact"),
        ("None", "failed"),
        ("features[:, :3]", "failed"),
    ],
)
def test_a_point_that_returns_hidden_states(tmp_path, monkeypatch, result, outcome):
    name = f"host_{abs(hash(result))}"
    (tmp_path / f"{name}.py").write_text(HOST.replace("RESULT", result))
    monkeypatch.setattr(sys, "path", [*sys.path])
    report = check(str(tmp_path), f"{name}.py", name, "encode", f"{name}:read", f"{name}:example")
    assert report["outcome"] == outcome, report
    assert bool(report["message"]) == (outcome == "failed")

"""The comparison of a host's function with an exact encoding."""

import pytest

from rtd_plugin.patching.self_check import check

HOST = """
from rtd_adapters.lincir import example as plain_example
from rtd_adapters.lincir import read_composition
from rtd_plugin.contract.composition import compose
from rtd_plugin.patching.host_model import copy_text_tower


def example(module):
    return (*plain_example(module), 1, True)


def encode(clip_model, text, pseudo_tokens, num_tokens=1, return_last_states=False):
    composition = read_composition(clip_model, text, pseudo_tokens, num_tokens, return_last_states)
    features, states = compose(copy_text_tower(clip_model, None, None), composition)
    return RESULT
"""


@pytest.mark.parametrize(
    ("result", "outcome", "message"),
    [
        ("features, states", "exact", ""),
        ("features, states.flip(1)", "wrong", ""),
        ("features + 1, states", "wrong", ""),
        ("features, states / 0", "wrong", "returns values that are not finite"),
        ("features", "failed", "TypeError: returned something else than tensors of the shapes (2, 64), (2, 77, 64)"),
        ("None", "failed", "TypeError: returned something else than tensors of the shapes (2, 64), (2, 77, 64)"),
    ],
)
def test_features_and_hidden_states_are_compared(tmp_path, monkeypatch, result, outcome, message):
    (tmp_path / "composing.py").write_text(HOST.replace("RESULT", result))
    monkeypatch.syspath_prepend(tmp_path)
    read = "rtd_adapters.lincir:read_composition"
    report = check(str(tmp_path), "composing.py", "composing", "encode", read, "composing:example")
    assert (report["outcome"], report["message"]) == (outcome, message)


def test_a_missing_function_is_reported(tmp_path):
    (tmp_path / "empty.py").touch()
    report = check(str(tmp_path), "empty.py", "empty", "encode", "", "")
    assert (report["outcome"], report["message"]) == ("failed", "LookupError: empty has no function encode")

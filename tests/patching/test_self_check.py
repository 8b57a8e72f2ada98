"""The comparison of a host's function with an exact encoding."""

import sys

import pytest

from rtd_plugin.patching.function_reference import import_function
from rtd_plugin.patching.self_check import check

HOST = """
from rtd_adapters.lincir import example as plain_example
from rtd_adapters.lincir import read_composition
from rtd_plugin.contract.composition import compose
from rtd_plugin.patching.host_model import copy_text_tower


def example(module):
    return (*plain_example(module), 1, True)


def encode(clip_model, text, pseudo_tokens, num_tokens=1, return_last_states=False):
    composition = read_composition(clip_model, text, pseudo_tokens, num_tokens, True)
    features, states = compose(copy_text_tower(clip_model, None, None), composition)
    return (RESULT) if return_last_states else features
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
    assert report["patchable"]


STRICT = """
from dataclasses import replace

import torch
from rtd_adapters.lincir import example, read_composition
from rtd_plugin.contract import Composition, RTDError
from rtd_plugin.contract.composition import compose
from rtd_plugin.patching.host_model import copy_text_tower


def encode(clip_model, text, pseudo_tokens, num_tokens=1, return_last_states=False):
    composition = read_composition(clip_model, text, pseudo_tokens)
    HOST
    return compose(copy_text_tower(clip_model, None, None), composition)


def flip(composition):
    return replace(composition, pseudo_tokens=composition.pseudo_tokens.flip(0))


def read(clip_model, text, pseudo_tokens, num_tokens=1, return_last_states=False):
    composition = read_composition(clip_model, text, pseudo_tokens)
    ADAPTER
    return composition
"""
NEEDS_PLACEHOLDER = "if not (text == 259).any(dim=1).all(): raise RTDError('a text has no $')"
NEEDS_ROWS = "if len(text) != len(pseudo_tokens): raise RTDError('not one each')"


@pytest.mark.parametrize(
    ("host", "adapter", "message"),
    [
        ("", "", ""),
        (
            "",
            NEEDS_PLACEHOLDER,
            "texts without a placeholder: the host composes it, but under a patch it raises RTDErr",
        ),
        (NEEDS_PLACEHOLDER, NEEDS_PLACEHOLDER, ""),
        (NEEDS_PLACEHOLDER, "", ""),
        ("", NEEDS_ROWS, "one text with several images: the host composes it, but under a patch it raises RTDError: n"),
        (NEEDS_ROWS, NEEDS_ROWS, ""),
        ("if len(pseudo_tokens) < len(text): raise ValueError", NEEDS_ROWS, "one text with several images: the host"),
        ("if len(text) < len(pseudo_tokens): raise ValueError", NEEDS_ROWS, "several texts with one image: the host"),
        (
            "",
            "if len(text) < len(pseudo_tokens): composition = flip(composition)",
            "one text with several images: differs",
        ),
    ],
)
def test_batches_that_the_host_composes_and_the_adapter_does_not(tmp_path, monkeypatch, host, adapter, message):
    """Texts without a placeholder, one text with several images, and the reverse."""
    (tmp_path / "strict.py").write_text(STRICT.replace("HOST", host or "...").replace("ADAPTER", adapter or "..."))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "strict", raising=False)
    import_function.cache_clear()
    report = check(str(tmp_path), "strict.py", "strict", "encode", "strict:read", "strict:example")
    assert report["outcome"] == ("misread" if message else "exact")
    assert report["message"].startswith(message)


def test_a_missing_function_is_reported(tmp_path):
    (tmp_path / "empty.py").touch()
    report = check(str(tmp_path), "empty.py", "empty", "encode", "", "")
    assert (report["outcome"], report["message"]) == ("failed", "LookupError: empty has no function encode")

"""Fingerprints distinguish text towers."""

import pytest
import torch

from rtd_plugin.clip.fingerprint import PROBE_TEXTS, PROBE_TOKENS, PROBE_TOLERANCE, digest, probe
from rtd_plugin.clip.tokens import encode_text
from rtd_plugin.clip.tower import TextTower

SIZES = {"vocabulary": 300, "context_length": 8, "width": 8, "layers": 2, "heads": 2, "features": 6}


@pytest.fixture(params=["gelu", "quick_gelu"])
def tower(request, randomise):
    return randomise(TextTower(activation=request.param, **SIZES))


def test_probe_tokens_are_those_of_the_probe_texts():
    assert [list(tokens) for tokens in PROBE_TOKENS] == [encode_text(text) for text in PROBE_TEXTS]


def test_the_digest_changes_with_any_weight(tower):
    before = digest(tower)
    assert digest(tower) == before == digest(TextTower.from_state_dict(tower.state_dict(), heads=2))
    for weight in tower.parameters():
        value = weight.data.flatten()[0].item()
        weight.data.view(-1)[0] = value + 1e-3
        assert digest(tower) != before
        weight.data.view(-1)[0] = value
    assert digest(tower) == before


def test_the_digest_does_not_depend_on_the_dtype_that_holds_the_values(tower):
    half = tower.half()
    assert digest(half) == digest(TextTower.from_state_dict(half.state_dict(), heads=2).float())


def test_the_probe_survives_rounding_and_differs_between_clips(randomise):
    sizes = {"width": 64, "layers": 3, "features": 32}
    one, other = (randomise(TextTower(**sizes), seed) for seed in (1, 2))
    fingerprint = probe(one)
    assert fingerprint.shape == (4, 16)
    assert fingerprint.dtype == torch.float32
    same = max((probe(one.to(dtype)) - fingerprint).abs().max() for dtype in (torch.float16, torch.bfloat16))
    different = (probe(other) - fingerprint).abs().max()
    assert same < PROBE_TOLERANCE / 2
    assert different > 10 * PROBE_TOLERANCE


def test_the_probe_of_a_lightly_tuned_tower_differs(randomise):
    tower = randomise(TextTower(width=64, layers=1, features=32))
    fingerprint = probe(tower)
    tower.text_projection.data *= 1 + 0.05 * torch.randn(64, 32)
    assert (probe(tower) - fingerprint).abs().max() > 0.005

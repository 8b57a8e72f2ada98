"""What stands in for functions that old versions of torch lack."""

import pytest
import torch

from rtd_plugin.clip import old_torch
from rtd_plugin.clip.tower import TextTower

VERSIONS = [(1, 11), (2, 0)]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_without_torchs_own(monkeypatch, masked, dtype):
    query, key, value = torch.randn(3, 2, 4, 7, 16).to(dtype)
    mask = torch.where(torch.rand(2, 1, 7, 7) < 0.8, 0.0, float("-inf")).to(dtype).triu() if masked else None
    expected = old_torch.attend(query, key, value, mask)
    monkeypatch.setattr(old_torch, "VERSION", (1, 11))
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    torch.testing.assert_close(old_torch.attend(query, key, value, mask), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_tower_is_built_without_random_numbers(monkeypatch, randomise, version, dtype):
    state = {name: weight.to(dtype) for name, weight in randomise(TextTower(width=64, layers=2)).state_dict().items()}
    monkeypatch.setattr(old_torch, "VERSION", version)
    before = torch.get_rng_state()
    tower = TextTower.from_state_dict(state)
    assert torch.equal(torch.get_rng_state(), before)
    for name, weight in tower.state_dict().items():
        assert weight.dtype == dtype
        assert torch.equal(weight, state[name])


def test_no_kernels_are_selected_where_torch_cannot(monkeypatch):
    monkeypatch.setattr(old_torch, "sdpa_kernel", None)
    with old_torch.select_attention_kernels():
        assert not old_torch.is_compiling()


def test_queries_are_encoded_where_torch_cannot_say_whether_it_compiles(monkeypatch, randomise):
    tower = randomise(TextTower(width=64, layers=2))
    tokens = torch.tensor([[49406, 320, 259, 49407] + [0] * 73])
    expected = tower.encode(tokens)
    monkeypatch.delattr(torch.compiler, "is_compiling")  # as in 2.1 and 2.2
    torch.testing.assert_close(tower.encode(tokens), expected)

"""A linear layer behind something cheap gives what the two give, gradients included, and keeps less."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rtd_plugin.clip.tower import QuickGELU
from rtd_plugin.engine.recomputing_linear import linear_of


@pytest.fixture(params=[nn.LayerNorm(12), nn.GELU(), QuickGELU()], ids=lambda module: type(module).__name__)
def module(request, randomised):
    return randomised(request.param)


@pytest.fixture(autouse=True)
def large(monkeypatch):
    monkeypatch.setattr("rtd_plugin.engine.recomputing_linear.LARGE", 7 * 12)


@pytest.fixture
def linear():
    return nn.Linear(12, 20)


def both(module, x, linear):
    """Output and gradients, with little kept and written out."""
    found = []
    for apply in (linear_of, lambda module, x, *linear: F.linear(module(x), *linear)):
        given = [x.clone().requires_grad_(), *linear.parameters(), *module.parameters()]
        result = apply(module, given[0], linear.weight, linear.bias)
        wanted = [tensor for tensor in given if tensor.requires_grad]
        gradients = torch.autograd.grad(result, wanted, torch.arange(20.0).expand_as(result).to(result.dtype))
        found.append([result.detach(), *gradients])
    return found


def test_results_and_gradients(module, linear):
    found, expected = both(module, torch.randn(7, 12), linear)
    assert all(gradient.abs().max() > 0.1 for gradient in expected)
    torch.testing.assert_close(found, expected)


def test_parts_that_are_not_trained(module, linear):
    linear.weight.requires_grad_(False)
    module.requires_grad_(False)
    found, expected = both(module, torch.randn(7, 12), linear)
    assert len(found) == 3
    torch.testing.assert_close(found, expected)


def test_mixed_precision(module, linear):
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = both(module, torch.randn(7, 12), linear)
    assert [tensor.dtype for tensor in found] == [torch.bfloat16] + [torch.float32] * (len(found) - 1)
    torch.testing.assert_close(found, expected)


def test_nothing_but_its_input_is_kept(module, linear):
    kept = []
    x = torch.randn(7, 12).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        linear_of(module, x, linear.weight, linear.bias)
    assert {tensor.data_ptr() for tensor in kept} == {x.data_ptr(), linear.weight.data_ptr()}


def test_what_is_small_is_not_computed_again(module, linear):
    found, expected = both(module, torch.randn(6, 12), linear)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)

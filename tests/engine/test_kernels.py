"""The operations of a GPU's step, counted without a GPU: no synchronisation, few shapes, and no more operations."""

import json
from argparse import Namespace
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # seconds of imports and of operations without data


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    lines = [f"{index}.jpg\ta picture of {index} dogs in the park number {index % 7}\n" for index in range(200)]
    (folder / "captions.tsv").write_text("".join(lines))
    (folder / "conditions.json").write_text(json.dumps([{"caption": f"has {index} more"} for index in range(20)]))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
        import kernels

        files = {"captions": str(folder / "captions.tsv"), "conditions": str(folder / "conditions.json")}
        yield kernels.measure(Namespace(tower="tiny", triplets=8, batches=100, compiler=True, **files))


def test_a_step_has_few_operations_and_batches_few_shapes(counted):
    """A tower of two layers; a synchronisation with the device would be an error."""
    kernels = counted["eager"]["kernels"]
    assert kernels["optimizer"] <= 7
    assert kernels["forward"] <= 122
    assert kernels["backward"] <= 105
    assert 1 <= counted["shapes"] <= 20


def test_attention_is_the_kernel_of_a_gpu_that_takes_masks(counted):
    """Twice in each of two layers forward, once backward."""
    names = counted["eager"]["most"]
    assert names["_scaled_dot_product_efficient_attention"] == 4


def test_the_compiler_makes_fewer_kernels(counted):
    kernels = counted["compiled"]["kernels"]
    assert kernels["forward"] <= 68
    assert kernels["backward"] <= 62


def test_gradients_of_the_fake_gpu_are_those_of_autograd(counted):
    import fake_gpu
    import torch

    tower = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))
    x = torch.randn(5, 3)
    loss = (tower(x).softmax(dim=-1) @ tower[2].weight).square().sum()
    expected = torch.autograd.grad(loss, list(tower.parameters()), retain_graph=True)
    fake_gpu.run_backward(loss)
    torch.testing.assert_close([parameter.grad for parameter in tower.parameters()], list(expected))


def test_a_wait_for_the_device_is_noticed(monkeypatch, counted):
    import kernels
    import torch
    from torch._subclasses.fake_tensor import DataDependentOutputException

    with kernels.use_fake_gpu(), pytest.raises(DataDependentOutputException):
        torch.zeros(2, device="cuda").sum().item()

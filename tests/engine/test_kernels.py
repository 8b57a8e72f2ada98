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
        yield kernels.measure(Namespace(tower="tiny", triplets=8, batches=100, compiler=False, **files))


def test_a_step_has_few_operations_and_batches_few_shapes(counted):
    """A tower of two layers; a synchronisation with the device would be an error."""
    operations = counted["operations"]
    assert operations["optimizer"] <= 6
    assert operations["forward"] + operations["backward"] <= 220
    assert 1 <= counted["shapes"] <= 20


def test_a_wait_for_the_device_is_noticed(monkeypatch, counted):
    import kernels
    import torch
    from torch._subclasses.fake_tensor import DataDependentOutputException

    with kernels.FAKE, pytest.raises(DataDependentOutputException):
        torch.zeros(2).sum().item()

"""Fixtures of all tests: one thread, an empty cache, a fixed seed, small benchmarks in their own formats."""

import importlib.util
import warnings
from collections.abc import Callable

import pytest
import torch
from benchmark_files import WRITERS
from safetensors.torch import save_file

from rtd_plugin import printable
from rtd_plugin.files import write_text


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory):
    """Separate the tests' cache from the user's, in child processes too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RTD_PLUGIN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _seed_torch():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _forget_secrets(monkeypatch):
    """Forget the secrets that other tests registered: a process redacts them from then on."""
    monkeypatch.setattr(printable, "_secrets", set())


@pytest.fixture(scope="session")
def randomise():
    """A function that gives all weights of a module random values: `randomise(module, seed=0)`."""
    from rtd_plugin.testing.fixtures import randomise

    return randomise


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A run's folder with the miniature's recipe, and its text encoder with noise on all weights."""
    from rtd_plugin.workflows.catalogue import load_recipe
    from rtd_plugin.workflows.loading import load_models

    folder = tmp_path_factory.mktemp("runs") / "mine"
    write_text(folder / "recipe.yaml", load_recipe("lincir-miniature")[0])
    generator = torch.Generator().manual_seed(0)
    state = load_models(recipe="lincir-miniature").tower.state_dict()
    tuned = {name: weight + 0.01 * torch.randn(weight.shape, generator=generator) for name, weight in state.items()}
    save_file(tuned, folder / "text_encoder.safetensors")
    return folder


@pytest.fixture(scope="session")
def write_dataset() -> Callable[..., None]:
    """A function that writes a small benchmark in its own format: `write_dataset("cirr", folder)`."""
    return lambda name, folder, **options: WRITERS[name](folder, **options)


HOSTILE = """
from typing import Tuple
import torch
from torch import Tensor, nn

class Weights(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(3))

    @torch.jit.export
    def __getstate__(self) -> Tuple[Tensor, bool]:
        return (self.w, self.training)

    @torch.jit.export
    def __setstate__(self, state: Tuple[Tensor, bool]):
        victim = torch.from_file(VICTIM, True, 64, dtype=torch.uint8)
        victim.fill_(65)
        self.w = state[0] + victim[:3].float()
        self.training = state[1]

    def forward(self, x: Tensor) -> Tensor:
        return x
"""


@pytest.fixture(scope="session")
def hostile(tmp_path_factory):
    """A TorchScript archive, and the file that it overwrites when torch loads it."""
    folder = tmp_path_factory.mktemp("hostile")
    victim = folder / "victim"
    source = folder / "weights_with_code.py"
    source.write_text(HOSTILE.replace("VICTIM", repr(str(victim))))
    spec = importlib.util.spec_from_file_location("weights_with_code", source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    victim.write_bytes(bytes(64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TorchScript's deprecation
        torch.jit.save(torch.jit.script(module.Weights()), folder / "hostile.pt")
        torch.jit.load(folder / "hostile.pt")
    assert victim.read_bytes() == b"A" * 64, "the archive does not overwrite the file: tests with it cannot fail"
    return folder / "hostile.pt", victim

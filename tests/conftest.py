"""What all tests share: one thread, and small CLIPs whose every weight matters."""

import pytest
import torch
from torch import nn


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory):
    """Whatever is kept from run to run, also by other processes, is kept for the tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RTD_PLUGIN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def randomised():
    """Gives a module weights that all matter: biases and norms too, attention that is not flat."""

    def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in module.named_parameters():
                noise = torch.randn(weight.shape, generator=generator)
                if weight.ndim < 2:
                    weight.copy_(noise * 0.2 + (1 if name.endswith("weight") else 0))
                elif "embedding" in name:
                    weight.copy_(noise)
                else:
                    weight.copy_(noise * weight.shape[-1] ** -0.5)
        return module.eval()

    return randomised

"""What the checks share: how they fail, and a small CLIP of random weights with what goes into it."""

from functools import cache

import torch
from torch import Tensor, nn

from rtd_plugin.clip.tower import TextTower
from rtd_plugin.contract.adapter import Adapter

FEATURES = 24  # D: of images and texts; another number than W, so that mixing them up shows
NEAR = {"rtol": 1e-5, "atol": 1e-5}
CONDITIONS = ("is red", "has a striped collar and two more buttons", "shows it from above")


def require(right: object, problem: str) -> None:
    """Fails with a sentence unless something is right; unlike `assert`, also where Python leaves assertions out."""
    if not right:
        raise AssertionError(problem)


@cache
def small_tower() -> TextTower:
    """A text tower with CLIP's vocabulary and context, whose every weight matters."""
    tower = TextTower(width=32, layers=2, heads=4, features=FEATURES, activation="quick_gelu")
    return randomise(tower).requires_grad_(False)


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give a module random weights that all matter, biases and norms too, and put it into eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim < 2:
                weight.copy_(noise * 0.2 + (1 if name.endswith("weight") else 0))
            else:
                weight.copy_(noise if "embedding" in name else noise * weight.shape[-1] ** -0.5)
    return module.eval()


def features(count: int, size: int = FEATURES) -> Tensor:
    """Features of images, (count, size), different in each row."""
    return torch.randn(count, size, generator=torch.Generator().manual_seed(1))


def pseudo_tokens(adapter: Adapter, count: int, width: int) -> Tensor:
    """Pseudo tokens of an untrained projection of the adapter's, (count, W) or (count, n, W), different in each row."""
    projection = randomise(adapter.build_projection({}, FEATURES, width))
    with torch.no_grad():
        return projection(features(count))

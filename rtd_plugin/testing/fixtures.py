"""What the checks share: how they fail, and a small CLIP with random weights and inputs for it."""

from functools import cache
from typing import TypeVar

import torch
from torch import Tensor, nn

from rtd_plugin.clip.tower import TextTower
from rtd_plugin.contract.adapter import Adapter
from rtd_plugin.testing.reference import encode_slowly

Module = TypeVar("Module", bound=nn.Module)

FEATURES = 24  # D, of images and texts; differs from W, so that mixing them up shows
CONDITIONS = ("is red", "has a striped collar and two more buttons", "shows it from above")


def require(condition: object, problem: str) -> None:
    """Raise an AssertionError unless a condition holds; unlike `assert`, also under `python -O`."""
    if not condition:
        raise AssertionError(problem)


@cache
def build_small_tower() -> TextTower:
    """Return a text tower with CLIP's vocabulary and context length, in which every weight matters."""
    tower = TextTower(width=32, layers=2, heads=4, features=FEATURES, activation="quick_gelu")
    tower.requires_grad_(False)
    return randomise(tower)


def randomise(module: Module, seed: int = 0) -> Module:
    """Give a module reproducible weights, all large enough to change its results, and return it in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim < 2:
                weight.copy_(noise * 0.2 + (1 if name.endswith("weight") else 0))
            else:
                weight.copy_(noise if "embedding" in name else noise * weight.shape[-1] ** -0.5)
    return module.eval()


def make_features(count: int, size: int = FEATURES) -> Tensor:
    """Return random features of images, (count, size)."""
    return torch.randn(count, size, generator=torch.Generator().manual_seed(1))


def make_pseudo_tokens(adapter: Adapter, count: int, width: int) -> Tensor:
    """Return pseudo tokens from an untrained projection of the adapter, (count, W) or (count, n, W)."""
    projection = randomise(adapter.build_projection({}, FEATURES, width))
    with torch.no_grad():
        return projection(make_features(count))


def encode_expected(adapter: Adapter, tokens: Tensor, pseudo_tokens: Tensor) -> Tensor:
    """Return the reference encoder's features (B, D) of an adapter's composed queries on the small tower."""
    tower, placeholder = build_small_tower(), adapter.prompt.placeholder_id
    pairs = zip(tokens.tolist(), pseudo_tokens, strict=True)
    return torch.stack([encode_slowly(tower, row, v.reshape(-1, tower.width), placeholder) for row, v in pairs])


def require_near(tensor: Tensor, expected: Tensor, problem: str) -> None:
    """Raise an AssertionError unless two tensors have one shape and are equal up to rounding."""
    require(tensor.shape == expected.shape, f"{problem}: of shape {tuple(tensor.shape)}, not {tuple(expected.shape)}")
    if not torch.allclose(tensor, expected, rtol=1e-5, atol=1e-5):
        raise AssertionError(f"{problem}: off by {float((tensor - expected).abs().max()):.2g}")

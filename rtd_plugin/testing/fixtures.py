"""Shared code of the checks: failures, and a small CLIP with random weights and its inputs."""

import os
import traceback
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor, nn

from rtd_plugin.clip.tower import TextTower
from rtd_plugin.contract.adapter import Adapter, ProjectionInputs, list_pseudo_tokens
from rtd_plugin.testing.reference import encode_slowly

Module = TypeVar("Module", bound=nn.Module)

FEATURES = 24  # D, of images and texts; differs from W, so that mixing them up shows
CONDITIONS = ("is red", "has a striped collar and two more buttons", "shows it from above")


def require(condition: object, problem: str) -> None:
    """Raise an AssertionError unless a condition holds; unlike `assert`, also under `python -O`."""
    if not condition:
        raise AssertionError(problem)


def describe_failure(error: BaseException) -> str:
    """Return an exception's type and text, with the file and line that raised it, or that called torch."""
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((frame for frame in reversed(frames) if f"{os.sep}torch{os.sep}" not in frame.filename), frames[-1])
    return f"{type(error).__name__}: {error} ({frame.filename}, line {frame.lineno}, in {frame.name})"


@cache
def build_small_tower(width: int = 32, features: int = FEATURES) -> TextTower:
    """Return a text tower with CLIP's vocabulary and context length, in which every weight matters."""
    tower = TextTower(width=width, layers=2, heads=4, features=features, activation="quick_gelu")
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


def make_inputs(
    adapter: Adapter, size: int = FEATURES, width: int = 32, dtype: torch.dtype = torch.float32
) -> ProjectionInputs:
    """Return inputs of a projection as in training: random features (3, size), and prompts for a small tower."""
    features = torch.randn(len(CONDITIONS), size, generator=torch.Generator().manual_seed(1)).to(dtype)
    tower = build_small_tower(width, size)
    return ProjectionInputs(
        features, adapter.prompt.tokenize(CONDITIONS), lambda tokens: tower.encode(tokens).to(dtype)
    )


def make_pseudo_tokens(adapter: Adapter, width: int) -> Tensor:
    """Return pseudo tokens from an untrained projection of the adapter, (3, W) or (3, n, W); of several, the first."""
    projection = randomise(adapter.build_projection({}, FEATURES, width))
    with torch.no_grad():
        return list_pseudo_tokens(adapter, projection, make_inputs(adapter, FEATURES, width))[0]


def encode_expected(adapter: Adapter, tokens: Tensor, pseudo_tokens: Tensor) -> Tensor:
    """Return the reference encoder's features (B, D) of an adapter's composed queries on the small tower.

    One text or one image may serve all; a text without a placeholder is encoded unchanged.
    """
    tower, placeholder = build_small_tower(), adapter.prompt.placeholder_id
    count = max(len(tokens), len(pseudo_tokens))
    rows = tokens.expand(count, -1).tolist()
    vectors = pseudo_tokens.reshape(len(pseudo_tokens), -1, tower.width).expand(count, -1, -1)
    pairs = [(row, v if placeholder in row else None) for row, v in zip(rows, vectors, strict=True)]
    return torch.stack([encode_slowly(tower, row, v, placeholder) for row, v in pairs])


def require_near(tensor: Tensor, expected: Tensor, problem: str) -> None:
    """Raise an AssertionError unless two tensors have one shape and are equal up to rounding."""
    require(tensor.shape == expected.shape, f"{problem}: of shape {tuple(tensor.shape)}, not {tuple(expected.shape)}")
    if not torch.allclose(tensor, expected, rtol=1e-5, atol=1e-5):
        raise AssertionError(f"{problem}: off by {float((tensor - expected).abs().max()):.2g}")

"""A block's weights in autocast's dtype, rounded together: 24 kernels a step of ViT-L/14 in place of 192.

Autocast rounds each weight by itself, and each gradient back.
"""

from typing import Any

import torch
from torch import Tensor, nn


def round_weights(block: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the weights of a block's matrix products, by name, in another dtype and with gradients for the block's."""
    names, weights = zip(
        *((name, weight) for name, weight in block.named_parameters() if not name.startswith("ln_")), strict=True
    )
    return dict(zip(names, _Round.apply(dtype, *weights), strict=True))


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.dtype = weights[0].dtype
        return _convert(weights, dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return None, *_convert(gradients, ctx.dtype)


def _convert(tensors: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    results = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    torch._foreach_copy_(results, list(tensors))
    return tuple(results)

"""Blocks' weights in autocast's dtype, several blocks' rounded together: 6 kernels a step of ViT-L/14 in place of 192.

Autocast rounds each weight by itself, and each gradient back.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def round_weights(blocks: Sequence[nn.Module], dtype: torch.dtype) -> list[dict[str, Tensor]]:
    """Return the weights of each block's matrix products, by name, in another dtype and with gradients for the block's.

    Those of blocks that are in this dtype already are left out.
    """
    names = [
        [name for name, weight in block.named_parameters() if not name.startswith("ln_") and weight.dtype != dtype]
        for block in blocks
    ]
    weights = [block.get_parameter(name) for block, some in zip(blocks, names, strict=True) for name in some]
    rounded = iter(_Round.apply(dtype, *weights) if weights else ())
    return [{name: next(rounded) for name in some} for some in names]


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

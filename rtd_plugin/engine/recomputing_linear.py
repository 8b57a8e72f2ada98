"""Linear layers behind something cheap, of which little is kept for the backward pass.

What a layer norm or an activation gives is as large as what it is given, and is needed once more: for the gradient of
the weights behind it. To compute it again there costs next to nothing beside the matrix products, and a transformer
block keeps two thirds of what it would.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

LARGE = 2**19  # numbers that are worth the trouble


def linear_of(module: nn.Module, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`linear(module(x), weight, bias)`, keeping x alone if it is large.

    Args:
        module: works on the last dimension alone, and draws no random numbers.
        x: (N, W).
        weight, bias: (V, W) and (V,).
    """
    # A compiler chooses by itself what to compute again.
    if torch.compiler.is_compiling() or not torch.is_grad_enabled() or x.numel() < LARGE:
        return F.linear(module(x), weight, bias)
    return _LinearOf.apply(module, x, weight, bias, *module.parameters())


class _LinearOf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, module: nn.Module, x: Tensor, weight: Tensor, bias: Tensor, *parameters: Tensor) -> Tensor:
        kind = x.device.type
        ctx.module = module
        ctx.autocast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        ctx.save_for_backward(x, weight)
        return F.linear(module(x), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        _, _, of_weight, of_bias, *of_parameters = ctx.needs_input_grad
        with torch.autocast(*ctx.autocast):
            x = x.detach().requires_grad_()
            with torch.enable_grad():
                given = ctx.module(x)
            wanted = [
                parameter for parameter, needed in zip(ctx.module.parameters(), of_parameters, strict=True) if needed
            ]
            of_x, *found = torch.autograd.grad(given, (x, *wanted), gradient @ weight)
            parameters = [found.pop(0) if needed else None for needed in of_parameters]
            weight = gradient.T @ given.detach() if of_weight else None
            return None, of_x, weight, gradient.sum(0) if of_bias else None, *parameters

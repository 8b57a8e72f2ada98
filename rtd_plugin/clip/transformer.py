"""The transformer of CLIP's text encoder: pre-norm blocks of causal attention (Radford et al. 2021, section 2.4).

Parameters are named as in OpenAI's and open_clip's state dicts.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rtd_plugin.clip.old_torch import attend


class QuickGELU(nn.Module):
    """The sigmoid approximation of GELU that OpenAI's CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(1.702 * x).div_(1.702)  # x · sigmoid(1.702 x), keeping one tensor fewer for the gradient


ACTIVATIONS = {"gelu": nn.GELU, "quick_gelu": QuickGELU}


class CausalAttention(nn.Module):
    """Multi-head self-attention in which a position attends to itself and to what its mask allows."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def attend(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend to what stands left of a position, or to what a mask allows.

        Args:
            x: (B, L, W).
            mask: (B, 1, L, L), added to the scores; None for the causal one.

        Returns:
            What all heads give, (B, L, W), before the output projection.
        """
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)  # (B, L, 3W)
        query, key, value = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # 3 × (B, H, L, W/H)
        return attend(query, key, value, mask).transpose(1, 2).flatten(2)


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int, mlp_width: int, activation: str):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = CausalAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, mlp_width), gelu=ACTIVATIONS[activation](), c_proj=nn.Linear(mlp_width, width)
            )
        )

    def forward(self, x: Tensor, mask: Tensor | None = None, rows: Tensor | None = None) -> Tensor:
        """Return the states after the block.

        Args:
            x: (B, L, W).
            mask: as `CausalAttention.attend` takes it.
            rows: (n,) indices among all B · L positions, whose states alone are computed behind the attention, (n, W).
        """
        attended = self.attn.attend(self.ln_1(x), mask)
        if rows is not None:
            x, attended = (state.flatten(0, 1).index_select(0, rows) for state in (x, attended))
        x = x + self.attn.out_proj(attended)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """The stack of blocks."""

    def __init__(self, layers: int, width: int, heads: int, mlp_width: int, activation: str):
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, mlp_width, activation) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x)
        return x

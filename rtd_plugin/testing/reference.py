"""CLIP's text encoder written out for one text: slow and simple, as a reference for tests."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rtd_plugin.clip.tower import TextTower


def encode_slowly(
    tower: TextTower, tokens: Sequence[int], pseudo_tokens: Tensor | None = None, placeholder: int = 259
) -> Tensor:
    """Encode one text with the weights of a tower (Radford et al. 2021, section 2.4), without its `encode`.

    Args:
        tower: provides weights, activation and number of heads.
        tokens: the text's ids with start and end; ids after the end token, the largest id, are ignored, because the
            feature cannot depend on them.
        pseudo_tokens: (n, W). A single placeholder takes all n of them; several placeholders take one each, or all
            the only one. None leaves the placeholders' own embeddings.
        placeholder: its token id.

    Returns:
        (D,), not normalised, in the tower's dtype, with gradients.
    """
    tokens = list(tokens)[: list(tokens).index(max(tokens)) + 1]
    vectors = [tower.token_embedding.weight[token] for token in tokens]
    if pseudo_tokens is not None:
        indices = [index for index, token in enumerate(tokens) if token == placeholder]
        if len(indices) == 1:
            vectors[indices[0] : indices[0] + 1] = list(pseudo_tokens)
        else:
            for index, vector in zip(indices, pseudo_tokens.expand(len(indices), -1), strict=True):
                vectors[index] = vector
    x = torch.stack(vectors) + tower.positional_embedding[: len(vectors)]  # (L, W)
    causal_mask = torch.full((len(x), len(x)), -math.inf, dtype=x.dtype).triu(1)
    blocks: list[Any] = list(
        tower.transformer.resblocks
    )  # torch types a module's children as modules without attributes
    for block in blocks:
        query, key, value = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, dim=1)
        heads = []
        for q, k, v in zip(*(rows.chunk(tower.heads, dim=1) for rows in (query, key, value)), strict=True):
            scores = q @ k.T / math.sqrt(q.shape[1]) + causal_mask  # (L, L)
            heads.append(scores.softmax(dim=1) @ v)
        x = x + block.attn.out_proj(torch.cat(heads, dim=1))
        hidden = block.mlp.c_fc(block.ln_2(x))
        activated = F.gelu(hidden) if tower.activation == "gelu" else hidden * torch.sigmoid(1.702 * hidden)
        x = x + block.mlp.c_proj(activated)
    return tower.ln_final(x[-1]) @ tower.text_projection

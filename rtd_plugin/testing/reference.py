"""CLIP's text encoder written out for one text: slow, and easy to believe."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from rtd_plugin.clip.tower import TextTower


def encode_slowly(
    tower: TextTower, tokens: Sequence[int], pseudo_tokens: Tensor | None = None, placeholder: int = 259
) -> Tensor:
    """The feature of one text with the weights of a tower (Radford et al. 2021, section 2.4), without its `encode`.

    Args:
        tower: whose weights, activation and number of heads count.
        tokens: the text's ids with start and end; what follows the end token, the largest id, is left out: nothing
            that is read can depend on it.
        pseudo_tokens: (n, W). A single placeholder takes all n of them; of several placeholders each takes its own, or
            every one the only pseudo token. None leaves placeholders as they are.
        placeholder: its id.

    Returns:
        (D,), not normalised, in the tower's dtype, with gradients.
    """
    tokens = list(tokens)[: list(tokens).index(max(tokens)) + 1]
    vectors = [tower.token_embedding.weight[token] for token in tokens]
    if pseudo_tokens is not None:
        places = [place for place, token in enumerate(tokens) if token == placeholder]
        if len(places) == 1:
            vectors[places[0] : places[0] + 1] = list(pseudo_tokens)
        else:
            for place, vector in zip(places, pseudo_tokens.expand(len(places), -1), strict=True):
                vectors[place] = vector
    x = torch.stack(vectors) + tower.positional_embedding[: len(vectors)]  # (L, W)
    hidden_future = torch.full((len(x), len(x)), -math.inf, dtype=x.dtype).triu(1)
    for block in tower.transformer.resblocks:
        query, key, value = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, dim=1)
        heads = []
        for q, k, v in zip(*(part.chunk(tower.heads, dim=1) for part in (query, key, value)), strict=True):
            scores = q @ k.T / math.sqrt(q.shape[1]) + hidden_future  # (L, L)
            heads.append(scores.softmax(dim=1) @ v)
        x = x + block.attn.out_proj(torch.cat(heads, dim=1))
        hidden = block.mlp.c_fc(block.ln_2(x))
        active = F.gelu(hidden) if tower.activation == "gelu" else hidden * torch.sigmoid(1.702 * hidden)
        x = x + block.mlp.c_proj(active)
    return tower.ln_final(x[-1]) @ tower.text_projection

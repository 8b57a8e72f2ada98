"""SEARLE's composition point: of each text the first `$` becomes its pseudo token."""

import torch
from clip.model import CLIP


def encode_with_pseudo_tokens(clip_model: CLIP, text: torch.Tensor, pseudo_tokens: torch.Tensor, num_tokens=1):
    if not (text == 259).any(dim=1).all():
        raise IndexError("a text has no $")
    x = clip_model.token_embedding(text).type(clip_model.dtype)
    x[torch.arange(len(text)), (text == 259).int().argmax(dim=1)] = pseudo_tokens.to(x.dtype)
    x = (x + clip_model.positional_embedding.type(clip_model.dtype)).permute(1, 0, 2)
    x = clip_model.ln_final(clip_model.transformer(x).permute(1, 0, 2)).type(clip_model.dtype)
    return x[torch.arange(len(x)), text.argmax(dim=-1)] @ clip_model.text_projection

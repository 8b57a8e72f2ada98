"""Palette's composition."""

import torch


def encode_query(model, text, vectors):
    """Encode texts (B, L) or (1, L), with vectors (B, W) or (1, W) in place of `$` where a text has it."""
    x = model.token_embedding(text).type(model.dtype)
    x = torch.where((text == 259).unsqueeze(-1), vectors.type(model.dtype).unsqueeze(1), x)
    x = (x + model.positional_embedding.type(model.dtype)).permute(1, 0, 2)
    x = model.ln_final(model.transformer(x).permute(1, 0, 2)).type(model.dtype)
    return x[torch.arange(len(x)), text.expand(len(x), -1).argmax(dim=-1)] @ model.text_projection

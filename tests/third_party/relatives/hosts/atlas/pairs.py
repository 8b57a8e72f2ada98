"""Atlas's composition."""

import torch


def encode_pair(model, text, pair, split_ind=265):
    """Encode texts (B, L) with two vectors each (B, 2, W) at their one placeholder; the rest moves right."""
    x = model.token_embedding(text).type(model.dtype)
    rows = []
    for row, vectors, words in zip(x, pair.type(model.dtype), text, strict=True):
        (index,) = (words == split_ind).nonzero().flatten().tolist()
        rows.append(torch.cat([row[:index], vectors, row[index + 1 : -1]]))
    x = (torch.stack(rows) + model.positional_embedding.type(model.dtype)).permute(1, 0, 2)
    x = model.ln_final(model.transformer(x).permute(1, 0, 2)).type(model.dtype)
    return x[torch.arange(len(x)), text.argmax(dim=-1) + 1] @ model.text_projection

import torch


def encode_query(model, text, tokens):
    """Encode texts (B, 77), with three vectors per text (B, 3, W) instead of its `*`."""
    words = model.token_embedding(text)
    placeholders = (text == 265).int().argmax(dim=1)
    rows = [
        torch.cat([row[:index], vectors, row[index + 1 : -2]])
        for row, index, vectors in zip(words, placeholders, tokens, strict=True)
    ]
    x = model.transformer(torch.stack(rows) + model.positional_embedding, attn_mask=model.attn_mask)
    ends = text.argmax(dim=1) + 2
    return model.ln_final(x)[torch.arange(len(x)), ends] @ model.text_projection

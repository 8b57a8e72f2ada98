import torch


def encode_query(model, text, tokens):
    """Texts (B, 77) in each of which three vectors (B, 3, W) take the place of `*`."""
    words = model.token_embedding(text)
    places = (text == 265).int().argmax(dim=1)
    rows = [
        torch.cat([row[:at], three, row[at + 1 : -2]]) for row, at, three in zip(words, places, tokens, strict=True)
    ]
    x = model.transformer(torch.stack(rows) + model.positional_embedding, attn_mask=model.attn_mask)
    ends = text.argmax(dim=1) + 2
    return model.ln_final(x)[torch.arange(len(x)), ends] @ model.text_projection

"""Stencil's composition."""

import torch


class Styler:
    def __init__(self, clip):
        self.clip = clip

    def encode(self, text, img_tokens, marker):
        """Encode texts (B, L) with one vector (B, W) each, at the token `marker`, which CLIP's vocabulary may lack."""
        marked = text == marker
        text = text.masked_fill(marked, 0)
        x = self.clip.token_embedding(text).type(self.clip.dtype)
        x[marked] = img_tokens.type(self.clip.dtype)
        x = (x + self.clip.positional_embedding.type(self.clip.dtype)).permute(1, 0, 2)
        x = self.clip.ln_final(self.clip.transformer(x).permute(1, 0, 2)).type(self.clip.dtype)
        return x[torch.arange(len(x)), text.argmax(dim=-1)] @ self.clip.text_projection

"""Pic2Word's CLIP, whose composition point is a method."""

import torch
from clip import model as clip


class CLIP(clip.CLIP):
    def _encode(self, x, text):
        x = (x + self.positional_embedding.type(self.dtype)).permute(1, 0, 2)
        x = self.ln_final(self.transformer(x).permute(1, 0, 2)).type(self.dtype)
        return x[torch.arange(len(x)), text.argmax(dim=-1)] @ self.text_projection

    def _find_first(self, text, split_ind):
        places = text == split_ind
        if not places.any(dim=1).all():
            raise IndexError("a text has no placeholder")
        return places.int().argmax(dim=1)

    def encode_text_img_vis(self, text, img_tokens, split_ind=4):
        x = self.token_embedding(text).type(self.dtype)
        x[torch.arange(len(text)), self._find_first(text, split_ind)] = img_tokens.reshape(1, -1)
        return self._encode(x, text)

    def encode_text_img_retrieval(self, text, img_tokens, split_ind=4, repeat=True):
        if repeat:
            text = text.repeat(len(img_tokens), 1)
        x = self.token_embedding(text).type(self.dtype)
        x[:, self._find_first(text[:1], split_ind)[0]] = img_tokens
        return self._encode(x, text)

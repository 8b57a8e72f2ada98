"""Palette's function also encodes texts without a placeholder, and takes one text or one image for all."""

import torch
from torch import nn

from rtd_plugin.contract import Adapter, Composition, CompositionPoint, Prompt, hookimpl


def read_query(model, text, vectors):
    return Composition(model, text, vectors, Palette.prompt.placeholder_id)


def example(module):
    from clip.model import CLIP

    texts = torch.tensor([[298, 5, 259, 7, 299, 0, 0, 0], [298, 259, 8, 9, 299, 0, 0, 0]])
    return CLIP(32, 16, 1, 64, 16, 8, 300, 64, 2, 2).eval(), texts, torch.randn(2, 64)


class Palette(Adapter):
    name = "palette"
    home = "https://example.org/palette"
    prompt = Prompt("a photo of $ that {condition}")
    unconditioned_prompt = Prompt("a photo of $")
    prompt_of_two = Prompt("a photo of $ that {first} and {second}")
    composition_points = (
        CompositionPoint("encode.py", modules=("encode",), name="encode_query", read=read_query, example=example),
    )

    def build_projection(self, state, features, token_width):
        return nn.Linear(features, token_width)


@hookimpl
def rtd_adapters():
    return [Palette()]

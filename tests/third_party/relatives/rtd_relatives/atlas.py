"""Atlas projects an image with a database and the query's text to two tokens at one placeholder, in two streams.

The features of both streams' composed queries are averaged.
"""

from collections.abc import Mapping

import torch

from rtd_plugin.contract import Adapter, Composition, CompositionPoint, Prompt, RTDError, hookimpl
from rtd_relatives import projections


def read_pair(model, text, pair, split_ind=265):
    return Composition(model, text, pair, split_ind)


def example(module):
    from clip.model import CLIP

    texts = torch.tensor([[298, 5, 265, 7, 299, 0, 0, 0], [298, 265, 8, 9, 299, 0, 0, 0]])
    return CLIP(32, 16, 1, 64, 16, 8, 300, 64, 2, 2).eval(), texts, torch.randn(2, 2, 64)


class Atlas(Adapter):
    name = "atlas"
    home = "https://example.org/atlas"
    prompt = Prompt("a photo of * , {condition}", placeholder="*")
    unconditioned_prompt = Prompt("a photo of *", placeholder="*")
    prompt_of_two = Prompt("a photo of * , {first} and {second}", placeholder="*")
    projection_files = ("checkpoint", "database")
    reads_patch_tokens = True
    composition_points = (CompositionPoint("pairs.py", ("pairs",), "encode_pair", read=read_pair, example=example),)

    def build_projection(self, state, features, token_width):
        return projections.Atlas(features, token_width, len(state["images"]) if state else 8)

    def project(self, projection, inputs):
        return projection(inputs.features, inputs.encode_text(inputs.prompts), inputs.patch_tokens)

    def projection_state(self, files):
        weights = files["checkpoint"].get("atlas")
        if not isinstance(weights, Mapping) or "images" not in files["database"]:
            raise RTDError("not the files of Atlas: 'atlas' is not in its checkpoint, or 'images' not in its database")
        return {**weights, **files["database"]}

    def projection_checkpoint(self, state):
        weights = {name: weight for name, weight in state.items() if name != "images"}
        return {"checkpoint": {"atlas": weights}, "database": {"images": state["images"]}}


@hookimpl
def rtd_adapters():
    return [Atlas()]

"""Trident turns an image into three pseudo tokens, which replace one `*` of the prompt."""

from pathlib import Path

from torch import nn

from rtd_plugin.contract import Adapter, Composition, CompositionPoint, Prompt, RTDError, hookimpl


class Projection(nn.Module):
    def __init__(self, features, token_width):
        super().__init__()
        self.linear = nn.Linear(features, 3 * token_width)

    def forward(self, features):  # (B, D)
        return self.linear(features).unflatten(1, (3, -1))  # (B, 3, W)


def read_query(model, text, tokens):  # the parameters of Trident's own function
    return Composition(model, text, tokens, Trident.prompt.placeholder_id)


class Trident(Adapter):
    name = "trident"
    home = "https://example.org/trident"
    prompt = Prompt("a photo of * , {condition}", placeholder="*")
    unconditioned_prompt = Prompt("a photo of *", placeholder="*")
    prompt_of_two = Prompt("a photo of * , {first} and {second}", placeholder="*")
    composition_points = (
        CompositionPoint(file="trident/query.py", modules=("trident.query",), name="encode_query", read=read_query),
    )

    def build_projection(self, state, features, token_width):
        return Projection(features, token_width)

    def projection_state(self, checkpoint):
        state = checkpoint.get("projection", checkpoint)
        if "linear.weight" not in state:
            raise RTDError("not a checkpoint of Trident: neither 'projection' nor 'linear.weight' is in it")
        return state

    def projection_checkpoint(self, state):
        return {"projection": state}


@hookimpl
def rtd_adapters():
    return [Trident()]


@hookimpl
def rtd_recipe_folders():
    return [Path(__file__).with_name("recipes")]

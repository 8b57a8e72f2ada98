"""Stencil's tokenizer adds the tokens `<|image|>`, 49405, and one for the style, 49408, beyond CLIP's."""

from torch import nn

from rtd_plugin.contract import Adapter, Composition, CompositionPoint, Prompt, hookimpl


def read_styled(self, text, img_tokens, marker):
    return Composition(self.clip, text, img_tokens, marker)


def make_call(model, tokens, pseudo_tokens):
    """Return the arguments of a call with the id that Stencil's programs pass."""
    from types import SimpleNamespace

    tokens = tokens.masked_fill(tokens == Stencil.prompt.placeholder_id, 49408)
    return {"self": SimpleNamespace(clip=model), "text": tokens, "img_tokens": pseudo_tokens, "marker": 49408}


class Stencil(Adapter):
    name = "stencil"
    home = "https://example.org/stencil"
    prompt = Prompt("a photo of <|image|> , {condition}", placeholder="<|image|>", placeholder_id=49405)
    unconditioned_prompt = Prompt("a photo of <|image|>", placeholder="<|image|>", placeholder_id=49405)
    prompt_of_two = Prompt("a photo of <|image|> , {first} , {second}", placeholder="<|image|>", placeholder_id=49405)
    composition_points = (
        CompositionPoint("lib/styles.py", ("lib.styles",), "Styler.encode", read=read_styled, arguments=make_call),
    )
    markers = {"lib/styles.py": "class Styler"}  # noqa: RUF012

    def build_projection(self, state, features, token_width):
        return nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, token_width))


@hookimpl
def rtd_adapters():
    return [Stencil()]

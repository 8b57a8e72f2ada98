"""MyMethod under rtd-plugin."""

from torch import nn

from rtd_plugin.contract import Adapter, Composition, CompositionPoint, Prompt, RTDError, hookimpl


def read_composition(model, text, tokens):
    """Take the parameters of the method's own function, of the same names: tokens (B, L), pseudo tokens (B, W)."""
    return Composition(model, text, tokens, MyMethod.prompt.placeholder_id)


class MyMethod(Adapter):
    name = "mymethod"
    home = "https://example.org/mymethod"
    prompt = Prompt("a photo of $ that {condition}")
    prompt_of_two = Prompt("a photo of $ that {first} and {second}")
    unconditioned_prompt = Prompt("a photo of $")
    # Where the method's code composes queries: for `rtd-plugin patch`. Leave it out if you only train and evaluate.
    composition_points = (
        CompositionPoint(file="mymethod/encode.py", modules=("mymethod.encode",), name="encode", read=read_composition),
    )

    def build_projection(self, state, features, token_width):
        """Return the untrained module: features (B, D) -> pseudo tokens (B, W), or (B, n, W) for n of them."""
        return nn.Linear(features, token_width)

    def projection_state(self, checkpoint):
        """Return the module's state dict from a checkpoint of the method, or from the state dict alone."""
        state = checkpoint.get("projection", checkpoint)
        if "weight" not in state:
            raise RTDError("not a checkpoint of MyMethod: neither 'projection' nor 'weight' is in it")
        return state

    def projection_checkpoint(self, state):
        """Return a checkpoint as the method writes it, for `projection_state` to read."""
        return {"projection": state}


@hookimpl
def rtd_adapters():
    return [MyMethod()]

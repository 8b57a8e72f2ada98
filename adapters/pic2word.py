"""Pic2Word: Mapping Pictures to Words for Zero-shot Composed Image Retrieval (Saito et al., CVPR 2023)."""

import re
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

import torch
from rtd_adapters.pic2word_shims import SHIMS
from torch import Tensor, nn

from rtd_plugin import hookimpl
from rtd_plugin.clip.tokens import Prompt
from rtd_plugin.contract.adapter import Adapter
from rtd_plugin.contract.composition import Composition, CompositionPoint
from rtd_plugin.errors import RTDError

HIDDEN, LAYERS = 512, 2  # channels of a hidden layer, and how many of them, unless Pic2Word is told otherwise


class Im2Text(nn.Module):
    """Pic2Word's projection module: hidden layers with dropout and ReLU, then a linear one.

    Args:
        features: size of CLIP's features, D.
        token_width: width of CLIP's token embeddings, W.
        hidden: channels of each hidden layer.
        layers: how many hidden layers.
        dropout: in each hidden layer, while training.
    """

    def __init__(
        self, features: int, token_width: int, hidden: int = HIDDEN, layers: int = LAYERS, dropout: float = 0.1
    ):
        super().__init__()
        widths = [features, *[hidden] * layers]
        self.layers = nn.Sequential(
            *(nn.Sequential(nn.Linear(width, hidden), nn.Dropout(dropout), nn.ReLU()) for width in widths[:-1])
        )
        self.fc_out = nn.Linear(widths[-1], token_width)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, D), not normalised, to pseudo tokens (B, W)."""
        return self.fc_out(self.layers(features))


def read_retrieval(
    self: Any, text: Tensor, img_tokens: Tensor | tuple[Tensor, ...], split_ind: int = 4, repeat: bool = True
) -> Composition:
    """Where the first text has its placeholders, every text takes its pseudo tokens.

    Args:
        text: (1, L) tokens if `repeat`, else (B, L).
        img_tokens: (B, W), for the first placeholder; or a tuple of them, for the placeholders in order.
        split_ind: the placeholder's id.
        repeat: whether there is one text for all pseudo tokens.

    Raises:
        RTDError: the first text has no placeholder, or more than there are pseudo tokens in the tuple.
    """
    if repeat:
        images = img_tokens[0] if isinstance(img_tokens, tuple) else img_tokens
        text = text.expand(len(images), -1)
    return _composition(self, text, text[:1] == split_ind, img_tokens)


def read_visualisation(
    self: Any, text: Tensor, img_tokens: Tensor | tuple[Tensor, ...], split_ind: int = 4
) -> Composition:
    """Every text takes the pseudo tokens of the one image where it has its own placeholders.

    Args:
        text: (B, L) tokens.
        img_tokens: (1, W), for each text's first placeholder; or a tuple of them, for its placeholders in order.
        split_ind: the placeholder's id.

    Raises:
        RTDError: a text has no placeholder, or more than there are pseudo tokens in the tuple.
    """
    return _composition(self, text, text == split_ind, img_tokens)


def _composition(
    model: Any, text: Tensor, placeholders: Tensor, img_tokens: Tensor | tuple[Tensor, ...]
) -> Composition:
    """Text (B, L), pseudo tokens and placeholders for each of its rows or one row for all."""
    if not isinstance(img_tokens, tuple):
        img_tokens = (img_tokens,)
        placeholders = placeholders & (placeholders.cumsum(dim=1) == 1)  # the first of each row
    pseudo_tokens = torch.stack([tokens.reshape(len(tokens), -1) for tokens in img_tokens], dim=1)  # (B, n, W)
    counts = placeholders.sum(dim=1)
    if not counts.all() or int(counts.max()) > len(img_tokens):
        raise RTDError(f"texts have {sorted(set(counts.tolist()))} placeholders for {len(img_tokens)} pseudo tokens")
    pseudo_tokens = pseudo_tokens[:, : int(counts.max())].expand(len(text), -1, -1)
    return Composition(model, text, pseudo_tokens, placeholders.expand(len(text), -1))


def _retrieval_arguments(model: Any, tokens: Tensor, pseudo_tokens: Tensor) -> dict[str, Any] | None:
    if len(pseudo_tokens) != len(tokens):
        return None
    placeholder = Pic2Word.prompt.placeholder_id
    return {"self": model, "text": tokens, "img_tokens": pseudo_tokens, "split_ind": placeholder, "repeat": False}


def _visualisation_arguments(model: Any, tokens: Tensor, pseudo_tokens: Tensor) -> dict[str, Any] | None:
    if len(pseudo_tokens) != 1:
        return None
    return {"self": model, "text": tokens, "img_tokens": pseudo_tokens, "split_ind": Pic2Word.prompt.placeholder_id}


def retrieval_example(module: ModuleType) -> tuple[Any, ...]:
    """A tiny model of Pic2Word's own class, two texts and their pseudo tokens, as its CIRR evaluation has them."""
    model, texts, pseudo_token, placeholder = visualisation_example(module)
    return model, texts, torch.cat([pseudo_token, -pseudo_token]), placeholder, False


def visualisation_example(module: ModuleType) -> tuple[Any, ...]:
    """The same with one pseudo token for both texts."""
    texts = torch.tensor([[298, 5, 265, 7, 299, 0, 0, 0], [298, 6, 265, 9, 8, 299, 0, 0]])
    model = module.CLIP(32, 16, 1, 64, 16, texts.shape[1], 300, 64, 2, 2).eval()
    return model, texts, torch.randn(1, 64), 265


class Pic2Word(Adapter):
    """Checkpoints as Pic2Word writes them, with a whole CLIP beside `state_dict_img2text`, or that state dict alone."""

    name = "pic2word"
    home = "https://github.com/google-research/composed_image_retrieval"
    prompt = Prompt("a photo of * , {condition}", placeholder="*")
    unconditioned_prompt = Prompt("a photo of *", placeholder="*")
    prompt_of_two = Prompt("a photo of * , {second} and {first}", placeholder="*")
    both_orders = False
    composition_points = (
        CompositionPoint(
            file="model/model.py",
            modules=("model.model",),
            name="CLIP.encode_text_img_retrieval",
            read=read_retrieval,
            arguments=_retrieval_arguments,
            example=retrieval_example,
        ),
        # Of the demo.
        CompositionPoint(
            file="model/model.py",
            modules=("model.model",),
            name="CLIP.encode_text_img_vis",
            read=read_visualisation,
            arguments=_visualisation_arguments,
            example=visualisation_example,
        ),
    )
    training_files = ("src/main.py", "src/trainer.py")
    shims = SHIMS
    evaluation = "PYTHONPATH=src:. python src/eval_retrieval.py --eval-mode cirr …"

    def build_projection(self, state: Mapping[str, Tensor], features: int, token_width: int) -> Im2Text:
        out = state.get("fc_out.weight")
        hidden = HIDDEN if out is None or out.ndim != 2 else out.shape[1]
        layers = sum(re.fullmatch(r"layers\.\d+\.0\.weight", key) is not None for key in state) if state else LAYERS
        return Im2Text(features, token_width, hidden, layers)

    def projection_checkpoint(self, state: Mapping[str, Tensor]) -> Mapping[str, Any]:
        return {"epoch": 1, "state_dict": {}, "state_dict_img2text": {f"module.{key}": v for key, v in state.items()}}

    def projection_state(self, checkpoint: Mapping[str, Any]) -> Mapping[str, Tensor]:
        state = checkpoint.get("state_dict_img2text", checkpoint)
        if isinstance(state, Mapping):
            # Trained on several GPUs, its keys have the wrapper's prefix.
            state = {str(key).removeprefix("module."): value for key, value in state.items()}
        if not isinstance(state, Mapping) or "fc_out.weight" not in state:
            raise RTDError("no checkpoint of Pic2Word: it has neither 'state_dict_img2text' nor 'fc_out.weight'")
        return state


@hookimpl
def rtd_adapters() -> Iterable[Adapter]:
    return [Pic2Word()]

"""Pic2Word: Mapping Pictures to Words for Zero-shot Composed Image Retrieval (Saito et al., CVPR 2023)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rtd_adapters.pic2word_shims import SHIMS

from rtd_plugin.contract import Adapter, Composition, CompositionPoint, Prompt, RTDError, hookimpl

if TYPE_CHECKING:
    from torch import Tensor, nn


def read_retrieval(
    self: Any, text: Tensor, img_tokens: Tensor | tuple[Tensor, ...], split_ind: int = 4, repeat: bool = True
) -> Composition:
    """Put every text's pseudo tokens at the positions of the first text's placeholders.

    Args:
        text: (1, L) tokens if `repeat`, else (B, L).
        img_tokens: (B, W), or (B, n, W) as relatives have them, for the first placeholder; or a tuple of (B, W), for
            the placeholders in order.
        split_ind: the placeholder's id.
        repeat: whether there is one text for all pseudo tokens.

    Raises:
        RTDError: the first text has no placeholder, or more than there are pseudo tokens in the tuple.
    """
    return _make_composition(self, text, text[:1] == split_ind, img_tokens)


def read_visualisation(
    self: Any, text: Tensor, img_tokens: Tensor | tuple[Tensor, ...], split_ind: int = 4
) -> Composition:
    """Put the pseudo tokens of the one image at each text's own placeholders.

    Args:
        text: (B, L) tokens.
        img_tokens: (1, W), for each text's first placeholder; or a tuple of them, for its placeholders in order.
        split_ind: the placeholder's id.

    Raises:
        RTDError: a text has no placeholder, or more than there are pseudo tokens in the tuple.
    """
    return _make_composition(self, text, text == split_ind, img_tokens)


def _make_composition(
    model: Any, text: Tensor, placeholders: Tensor, img_tokens: Tensor | tuple[Tensor, ...]
) -> Composition:
    """Return the composition of texts, with pseudo tokens and placeholders for each row or one row for all."""
    import torch

    if not isinstance(img_tokens, tuple):
        placeholders = placeholders & (placeholders.cumsum(dim=1) == 1)  # the first of each row
    counts = placeholders.sum(dim=1)
    images = len(img_tokens) if isinstance(img_tokens, tuple) else 1
    if not counts.all() or int(counts.max()) > images:
        raise RTDError(f"texts have {sorted(set(counts.tolist()))} placeholders for {images} pseudo tokens")
    if isinstance(img_tokens, tuple):
        vectors = [tokens.reshape(len(tokens), -1) for tokens in img_tokens]
        img_tokens = torch.stack(vectors[: int(counts.max())], dim=1)  # (B, n, W)
    return Composition(model, text, img_tokens, placeholders)


def _make_retrieval_arguments(model: Any, tokens: Tensor, pseudo_tokens: Tensor) -> dict[str, Any] | None:
    if len(pseudo_tokens) != len(tokens):
        return None
    placeholder = Pic2Word.prompt.placeholder_id
    return {"self": model, "text": tokens, "img_tokens": pseudo_tokens, "split_ind": placeholder, "repeat": False}


def _make_visualisation_arguments(model: Any, tokens: Tensor, pseudo_tokens: Tensor) -> dict[str, Any] | None:
    if len(pseudo_tokens) != 1:
        return None
    return {"self": model, "text": tokens, "img_tokens": pseudo_tokens, "split_ind": Pic2Word.prompt.placeholder_id}


def retrieval_example(module: ModuleType) -> tuple[Any, ...]:
    """Return a tiny model of Pic2Word's class, two texts and their pseudo tokens, as in its evaluation on CIRR."""
    import torch

    model, texts, pseudo_token, placeholder = visualisation_example(module)
    return model, texts, torch.cat([pseudo_token, -pseudo_token]), placeholder, False


def visualisation_example(module: ModuleType) -> tuple[Any, ...]:
    """Return the same with one pseudo token for both texts."""
    import torch

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
            arguments=_make_retrieval_arguments,
            example=retrieval_example,
        ),
        # Used by the demo.
        CompositionPoint(
            file="model/model.py",
            modules=("model.model",),
            name="CLIP.encode_text_img_vis",
            read=read_visualisation,
            arguments=_make_visualisation_arguments,
            example=visualisation_example,
        ),
    )
    training_files = ("src/main.py", "src/trainer.py")
    rounds_weights = False  # its evaluation converts CLIP to fp32 before it loads a checkpoint's weights
    shims = SHIMS
    evaluation = "PYTHONPATH=src:. python src/eval_retrieval.py --eval-mode cirr …"

    def build_projection(self, state: Mapping[str, Tensor], features: int, token_width: int) -> nn.Module:
        from rtd_adapters.im2text import HIDDEN, LAYERS, Im2Text

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
            raise RTDError("not a checkpoint of Pic2Word: neither 'state_dict_img2text' nor 'fc_out.weight' is in it")
        return state


@hookimpl
def rtd_adapters() -> Iterable[Adapter]:
    return [Pic2Word()]

"""SEARLE: Zero-Shot Composed Image Retrieval with Textual Inversion (Baldrati et al., ICCV 2023)."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rtd_adapters.phi_adapter import PLACEHOLDER, PhiAdapter

from rtd_plugin.contract import Adapter, Composition, CompositionPoint, KnownFault, RTDError, hookimpl

if TYPE_CHECKING:
    from torch import Tensor


def read_composition(clip_model: Any, text: Tensor, pseudo_tokens: Tensor, num_tokens: int = 1) -> Composition:
    """Put a text's pseudo tokens at its first `$` and the positions after it, `num_tokens` in all.

    Args:
        text: (B, L) tokens.
        pseudo_tokens: (B, W) or (B, num_tokens, W); or, for all texts, (W,), (1, W), (num_tokens, W) or
            (1, num_tokens, W). A text's only pseudo token takes all its positions.

    Raises:
        RTDError: a text has no `$`, or its pseudo tokens are neither one nor `num_tokens`.
    """
    import torch

    placeholders = text == PLACEHOLDER  # (B, L)
    if not placeholders.any(dim=1).all():
        raise RTDError("a text of the batch has no $ for its pseudo token")
    first = placeholders.int().argmax(dim=1)  # (B,)
    pseudo_tokens = torch.atleast_2d(pseudo_tokens)
    if len(pseudo_tokens) != len(text):
        pseudo_tokens = pseudo_tokens.expand(len(text), -1, -1)
        # As SEARLE, which assumes num_tokens placeholders in every text: with more, a text gets another's position.
        first = placeholders.nonzero()[::num_tokens, 1][: len(text)]
    if pseudo_tokens.ndim == 3 and pseudo_tokens.shape[1] not in (1, num_tokens):
        raise RTDError(f"there are {pseudo_tokens.shape[1]} pseudo tokens per text, but num_tokens is {num_tokens}")
    after_first = torch.arange(text.shape[1], device=text.device) - first.unsqueeze(1)  # (B, L)
    return Composition(clip_model, text, pseudo_tokens, (after_first >= 0) & (after_first < num_tokens))


def example(_module: ModuleType) -> tuple[Any, ...]:
    """Return a tiny model of OpenAI's package, two texts, and their pseudo tokens."""
    import torch
    from clip.model import CLIP

    texts = torch.tensor([[298, 5, PLACEHOLDER, 7, 299, 0, 0, 0], [298, PLACEHOLDER, 8, 9, 299, 0, 0, 0]])
    return CLIP(32, 16, 1, 64, 16, texts.shape[1], 300, 64, 2, 2).eval(), texts, torch.randn(2, 64)


class SEARLE(PhiAdapter):
    """Checkpoints as SEARLE's `train_phi.py` writes them, and the published ones."""

    name = "searle"
    home = "https://github.com/miccunifi/SEARLE"
    composition_points = (
        CompositionPoint(
            file="src/encode_with_pseudo_tokens.py",
            modules=("encode_with_pseudo_tokens", "src.encode_with_pseudo_tokens"),  # of scripts and of hubconf.py
            name="encode_with_pseudo_tokens",
            read=read_composition,
            example=example,
        ),
    )
    training_files = ("src/train_*.py", "src/oti_inversion.py")
    known_faults = (
        KnownFault(
            "setuptools",
            ">=81",
            "OpenAI's `clip` cannot be imported: it needs the module pkg_resources",
            'pip install "setuptools<81"',
        ),
    )
    evaluation = "python src/validate.py --eval-type phi --dataset cirr …"


@hookimpl
def rtd_adapters() -> Iterable[Adapter]:
    return [SEARLE()]

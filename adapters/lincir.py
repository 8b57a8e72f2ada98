"""LinCIR: Language-only Efficient Training of Zero-shot Composed Image Retrieval (Gu et al., CVPR 2024)."""

from collections.abc import Iterable
from typing import Any

from rtd_adapters.phi import Phi, PhiAdapter
from torch import Tensor

from rtd_plugin import hookimpl
from rtd_plugin.adapter import Adapter
from rtd_plugin.composition import Composition, CompositionPoint

__all__ = ["LinCIR", "Phi"]


def read_composition(
    clip_model: Any, text: Tensor, pseudo_tokens: Tensor, num_tokens: int = 1, return_last_states: bool = False
) -> Composition:
    """Every `$` of a text, if it has any, is the text's pseudo token; LinCIR makes no use of `num_tokens`.

    Args:
        text: (B, L) tokens, or (1, L) for all pseudo tokens.
        pseudo_tokens: (B, W), or (1, W) for all texts.
    """
    rows = max(len(text), len(pseudo_tokens))
    text = text.expand(rows, -1)
    placeholders = text == LinCIR.prompt.placeholder_id
    return Composition(clip_model, text, pseudo_tokens.expand(rows, -1), placeholders, return_last_states)


class LinCIR(PhiAdapter):
    """Checkpoints as LinCIR's `train_phi.py` writes them."""

    name = "lincir"
    home = "https://github.com/navervision/lincir"
    composition_points = (
        CompositionPoint(
            file="encode_with_pseudo_tokens.py",
            modules=("encode_with_pseudo_tokens",),
            name="encode_with_pseudo_tokens_HF",
            read=read_composition,
        ),
        # The branch `eval_genecis` has a copy of its own.
        CompositionPoint(
            file="genecis/eval_functions.py",
            modules=("eval_functions",),
            name="encode_with_pseudo_tokens_HF",
            read=read_composition,
        ),
    )


@hookimpl
def rtd_adapters() -> Iterable[Adapter]:
    return [LinCIR()]

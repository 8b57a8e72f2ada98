"""LinCIR: Language-only Efficient Training of Zero-shot Composed Image Retrieval (Gu et al., CVPR 2024)."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rtd_adapters.lincir_shims import CAUSAL_MASK
from rtd_adapters.phi_adapter import PLACEHOLDER, PhiAdapter

from rtd_plugin.contract import Adapter, Composition, CompositionPoint, KnownFault, hookimpl

if TYPE_CHECKING:
    from torch import Tensor


def read_composition(
    clip_model: Any, text: Tensor, pseudo_tokens: Tensor, num_tokens: int = 1, return_last_states: bool = False
) -> Composition:
    """Put a text's pseudo token at every `$` of the text, if it has any; LinCIR ignores `num_tokens`.

    Args:
        text: (B, L) tokens, or (1, L) for all pseudo tokens.
        pseudo_tokens: (B, W), or (1, W) for all texts.
    """
    return Composition(clip_model, text, pseudo_tokens, PLACEHOLDER, return_last_states)


def example(_module: ModuleType) -> tuple[Any, ...]:
    """Return a tiny text model of transformers, two texts, and their pseudo tokens."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=64,
        bos_token_id=298,
        eos_token_id=299,
    )
    texts = torch.tensor([[298, 5, PLACEHOLDER, 7, 299], [298, PLACEHOLDER, 8, 9, 299]])
    texts = torch.nn.functional.pad(texts, (0, config.max_position_embeddings - texts.shape[1]))
    return CLIPTextModelWithProjection(config).eval(), texts, torch.randn(2, 64)


REFUSED = "LinCIR's function fails: the text encoder refuses the arguments `causal_attention_mask` and `return_dict`"
IGNORED = (
    "LinCIR's function gives wrong features without an error: the text encoder ignores its causal mask and attends in "
    "both directions"
)
REMEDY = "install transformers 4.53.3 or older, or run under a patch: it composes correctly and repairs the rest"


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
            example=example,
        ),
        # The copy of the branch `eval_genecis`.
        CompositionPoint(
            file="genecis/eval_functions.py",
            modules=("eval_functions",),
            name="encode_with_pseudo_tokens_HF",
            read=read_composition,
            example=example,
        ),
    )
    training_files = ("train_*.py",)
    shims = (CAUSAL_MASK,)
    known_faults = (
        KnownFault("transformers", ">=4.54,<5", REFUSED, REMEDY),
        KnownFault("transformers", ">=5", IGNORED, REMEDY),
    )
    evaluation = "python validate.py --eval-type phi --dataset cirr …"


@hookimpl
def rtd_adapters() -> Iterable[Adapter]:
    return [LinCIR()]

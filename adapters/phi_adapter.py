"""Shared code of the adapters of SEARLE and LinCIR: prompts, placeholder, projection and the format of checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rtd_plugin.contract import Adapter, Prompt, RTDError

if TYPE_CHECKING:
    from torch import Tensor, nn

PLACEHOLDER = 259  # CLIP's token `$`; written out, because hosts' processes must not import a tokenizer


class PhiAdapter(Adapter):
    """A method with the projection φ; checkpoints `{'epoch': int, 'Phi': state dict}`, or the state dict alone."""

    prompt = Prompt("a photo of $ that {condition}")
    unconditioned_prompt = Prompt("a photo of $")
    prompt_of_two = Prompt("a photo of $ that {first} and {second}")

    def encode_two(self, first: str, second: str) -> list[int]:
        # Each condition may be a sentence, but the prompt joins both into one.
        return super().encode_two(first.strip(".?, "), second.strip(".?, "))

    def build_projection(self, state: Mapping[str, Tensor], features: int, token_width: int) -> nn.Module:
        from rtd_adapters.phi import Phi

        return Phi(features, token_width)

    def projection_state(self, checkpoint: Mapping[str, Any]) -> Mapping[str, Tensor]:
        state = checkpoint.get("Phi", checkpoint)
        if not isinstance(state, Mapping) or "layers.0.weight" not in state:
            raise RTDError(f"not a checkpoint of {type(self).__name__}: neither 'Phi' nor 'layers.0.weight' is in it")
        return state

    def projection_checkpoint(self, state: Mapping[str, Tensor]) -> Mapping[str, Any]:
        return {"epoch": 0, "Phi": state}

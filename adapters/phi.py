"""The projection module φ that SEARLE introduced and LinCIR took over, and what else the two methods share."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from rtd_plugin.clip.tokens import Prompt
from rtd_plugin.contract.adapter import Adapter
from rtd_plugin.errors import RTDError

PLACEHOLDER = 259  # CLIP's token `$`; spelt out, because hosts' processes are not to import a tokenizer


class Phi(nn.Module):
    """Three linear layers with GELU and dropout between them.

    Args:
        features: size of CLIP's features, D; both hidden layers have 4D channels.
        token_width: width of CLIP's token embeddings, W.
        dropout: after each hidden layer, while training.
    """

    def __init__(self, features: int, token_width: int, dropout: float = 0.5):
        super().__init__()
        hidden = 4 * features
        self.layers = nn.Sequential(
            nn.Linear(features, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, token_width),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, D), not normalised, to pseudo tokens (B, W)."""
        return self.layers(features)


class PhiAdapter(Adapter):
    """A method with this φ; checkpoints `{'epoch': int, 'Phi': state dict}`, or the state dict alone."""

    prompt = Prompt("a photo of $ that {condition}")
    unconditioned_prompt = Prompt("a photo of $")
    prompt_of_two = Prompt("a photo of $ that {first} and {second}")

    def encode_two(self, first: str, second: str) -> list[int]:
        # Conditions may be sentences of their own, and are to be one.
        return super().encode_two(first.strip(".?, "), second.strip(".?, "))

    def build_projection(self, state: Mapping[str, Tensor], features: int, token_width: int) -> Phi:
        return Phi(features, token_width)

    def projection_state(self, checkpoint: Mapping[str, Any]) -> Mapping[str, Tensor]:
        state = checkpoint.get("Phi", checkpoint)
        if not isinstance(state, Mapping) or "layers.0.weight" not in state:
            raise RTDError(f"no checkpoint of {type(self).__name__}: it has neither 'Phi' nor 'layers.0.weight'")
        return state

    def projection_checkpoint(self, state: Mapping[str, Tensor]) -> Mapping[str, Any]:
        return {"epoch": 0, "Phi": state}

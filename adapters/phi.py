"""The projection module φ that SEARLE introduced and LinCIR adopted."""

from __future__ import annotations

from torch import Tensor, nn


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
        """Map features (B, D), not normalised, to pseudo tokens (B, W)."""
        return self.layers(features)

"""Pic2Word's projection module."""

from __future__ import annotations

from torch import Tensor, nn

HIDDEN, LAYERS = 512, 2  # channels of a hidden layer, and their count, by Pic2Word's defaults


class Im2Text(nn.Module):
    """Hidden layers with dropout and ReLU, then a linear layer.

    Args:
        features: size of CLIP's features, D.
        token_width: width of CLIP's token embeddings, W.
        hidden: channels of each hidden layer.
        layers: number of hidden layers.
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
        """Map features (B, D), not normalised, to pseudo tokens (B, W)."""
        return self.fc_out(self.layers(features))

"""ψ, ψ₀ and φ without any trick: what the engine's are compared with, and `engine: plain` trains with."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rtd_plugin.clip.tower import TextTower
from rtd_plugin.training.batches import Batch


@dataclass(frozen=True, eq=False)
class PlainTexts:
    """Texts as `TextTower.encode` takes them.

    Attributes:
        tokens: (n, L) int64.
        placeholders: (n, L) bool, where pseudo tokens go.
        subjects: (n,) int64, whose pseudo token a text takes.
    """

    tokens: Tensor
    placeholders: Tensor
    subjects: Tensor


class PlainTower(nn.Module):
    """ψ: a text tower that encodes texts as they are, padded to the longest.

    Args:
        tower: whose weights it works with, not a copy.
    """

    def __init__(self, tower: TextTower):
        super().__init__()
        self.tower = tower

    def prepare(
        self, tokens: Tensor, placeholder: int = 259, subjects: Tensor | None = None, pseudo_tokens: int | None = None
    ) -> PlainTexts:
        """Do what needs no weights, on the CPU; arguments as `rtd_plugin.engine.packed_tower.PackedTower.prepare`."""
        columns = torch.arange(tokens.shape[1])
        placeholders = (tokens == placeholder) & (columns < tokens.argmax(dim=1, keepdim=True))
        return PlainTexts(tokens, placeholders, torch.arange(len(tokens)) if subjects is None else subjects)

    def forward(self, texts: PlainTexts, pseudo_tokens: Tensor | None = None) -> Tensor:
        """Return the texts' features, (n, D), not normalised."""
        return self.tower.encode(texts.tokens, pseudo_tokens, texts.placeholders, texts.subjects)


class PlainFrozen(nn.Module):
    """What never changes in training: the pre-trained text tower ψ₀ and the projection module φ.

    Args:
        tower: ψ₀.
        projection: φ, features (B, D) to pseudo tokens (B, W) or (B, n, W).
    """

    def __init__(self, tower: TextTower, projection: nn.Module):
        super().__init__()
        self.tower = tower
        self.projection = projection
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return ψ₀'s features of the target captions and of the reference captions, (B, D) each."""
        return self.tower.encode(batch.targets), self.tower.encode(batch.references)

    @torch.no_grad()
    def project(self, features: Tensor) -> Tensor:
        """Return φ's pseudo tokens, (B, W) or (B, n, W)."""
        return self.projection(features)

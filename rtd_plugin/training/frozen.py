"""ψ₀ and φ: what never changes in training."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rtd_plugin.clip.tower import TextTower
from rtd_plugin.training.run import Run

if TYPE_CHECKING:
    from rtd_plugin.training.batches import Batch

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}  # of ψ₀ and φ, by precision


class PlainFrozen(nn.Module):
    """The pre-trained text tower ψ₀ and the projection module φ, without any trick.

    Args:
        tower: ψ₀.
        projection: φ, features (B, D) to pseudo tokens (B, W) or (B, n, W).
    """

    def __init__(self, tower: TextTower, projection: nn.Module):
        super().__init__()
        self.tower = tower
        self.projection = projection
        self.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        return self.tower.device

    @torch.no_grad()
    def features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return ψ₀'s features of the target captions and of the reference captions, (B, D) each."""
        return self.tower.encode(batch.targets.to(self.device)), self.tower.encode(batch.references.to(self.device))

    @torch.no_grad()
    def project(self, features: Tensor) -> Tensor:
        """Return φ's pseudo tokens of features (B, D): (B, W) or (B, n, W)."""
        return self.projection(features)

    def count_pseudo_tokens(self) -> int:
        """Return how many pseudo tokens φ gives for a feature, n."""
        pseudo_tokens = self.project(torch.zeros(1, self.tower.features, device=self.device, dtype=self.tower.dtype))
        return 1 if pseudo_tokens.ndim == 2 else pseudo_tokens.shape[1]


def copy_frozen(run: Run, device: torch.device) -> tuple[TextTower, nn.Module]:
    """Return ψ₀ and φ on a device and in the run's precision."""
    dtype = DTYPES[run.recipe.precision]
    if device.type == "cpu" and dtype == torch.float32:
        return run.tower, run.projection
    return copy.deepcopy(run.tower).to(device, dtype), copy.deepcopy(run.projection).to(device, dtype)

"""ψ₀ and φ, which are frozen in training."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rtd_plugin.clip.tokens import pad
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.contract.adapter import Adapter, ProjectionInputs, list_pseudo_tokens
from rtd_plugin.training.run import Run

if TYPE_CHECKING:
    from rtd_plugin.training.batches import Batch

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}  # of ψ₀ and φ, by precision


class PlainFrozen(nn.Module):
    """The pre-trained text tower ψ₀ and the projection module φ, without any trick.

    Args:
        tower: ψ₀.
        projection: φ, features (B, D) to pseudo tokens (B, W) or (B, n, W).
        adapter: the method, if its φ reads more than features.
    """

    def __init__(self, tower: TextTower, projection: nn.Module, adapter: Adapter | None = None):
        super().__init__()
        self.tower = tower
        self.projection = projection
        self.adapter = adapter
        self.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        return self.tower.device

    @torch.no_grad()
    def features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return ψ₀'s features of the target captions and of the reference captions, (B, D) each."""
        return self.tower.encode(batch.targets), self.tower.encode(batch.references)

    @torch.no_grad()
    def project(self, features: Tensor, prompts: Tensor) -> Tensor:
        """Return φ's pseudo tokens, (B, W) or (B, n, W), of features (B, D) and the queries' prompts (B, L).

        If the method averages m composed queries, those of all m are stacked: (m · B, W) or (m · B, n, W).
        """
        if self.adapter is None:
            return self.projection(features)
        inputs = ProjectionInputs(features, prompts.to(self.device), self.tower.encode)
        return torch.cat(list_pseudo_tokens(self.adapter, self.projection, inputs))

    def count_pseudo_tokens(self) -> tuple[int, int]:
        """Return how many composed queries the method averages, m, and how many pseudo tokens each has, n."""
        feature = torch.zeros(1, self.tower.features, device=self.device, dtype=self.tower.dtype)
        prompts = pad([self.adapter.unconditioned_prompt.encode()] if self.adapter else [[]])
        pseudo_tokens = self.project(feature, prompts)
        return len(pseudo_tokens), 1 if pseudo_tokens.ndim == 2 else pseudo_tokens.shape[1]


def copy_frozen(run: Run, device: torch.device) -> tuple[TextTower, nn.Module, Adapter | None]:
    """Return ψ₀ and φ on a device and in the run's precision, and the adapter if φ reads more than features."""
    dtype = DTYPES[run.recipe.precision]
    adapter = run.adapter if run.adapter.reads_queries else None
    if device.type == "cpu" and dtype == torch.float32:
        return run.tower, run.projection, adapter
    return copy.deepcopy(run.tower).to(device, dtype), copy.deepcopy(run.projection).to(device, dtype), adapter

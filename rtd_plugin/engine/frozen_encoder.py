"""ψ₀ as the engine computes it: captions packed, on a CPU each of them once."""

import numpy as np
import torch
from torch import Tensor, nn

from rtd_plugin.clip.tower import TextTower
from rtd_plugin.contract.adapter import Adapter
from rtd_plugin.engine.caption_features import CaptionFeatures
from rtd_plugin.engine.packed_tower import PackedTower
from rtd_plugin.training.batches import Batch, map_tensors, stack_tokens
from rtd_plugin.training.frozen import PlainFrozen


class PackedFrozen(PlainFrozen):
    """Encodes the captions that a batch brings packed.

    Args:
        tower, projection, adapter: as of `PlainFrozen`.
        compiled: as of `PackedTower`.
    """

    def __init__(self, tower: TextTower, projection: nn.Module, adapter: Adapter | None = None, compiled: bool = False):
        super().__init__(tower, projection, adapter)
        self.encoder = PackedTower(tower, tower.device, compiled=compiled)

    @torch.no_grad()
    def features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return ψ₀'s features of the target captions and of the reference captions, (B, D) each."""
        targets, references = self.encoder(batch.packed_captions).chunk(2)
        return targets, references


class CachedFrozen(PackedFrozen):
    """Computes a caption's feature once, and reads it from a file afterwards: a third of a step on a CPU.

    Args:
        tower, projection, adapter: as of `PlainFrozen`.
        cache: the run's caption features.
    """

    def __init__(self, tower: TextTower, projection: nn.Module, adapter: Adapter | None, cache: CaptionFeatures):
        super().__init__(tower, projection, adapter)
        self.cache = cache

    @torch.no_grad()
    def features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return ψ₀'s features of the target captions and of the reference captions, (B, D) each."""
        tokens = stack_tokens(batch.targets, batch.references)  # (2B, L)
        indices = batch.captions.T.flip(0).flatten().numpy()  # of the targets, then of the references
        distinct, first, rows = np.unique(indices, return_index=True, return_inverse=True)

        def compute(missing: Tensor) -> Tensor:
            texts = self.encoder.prepare(tokens[first[missing.numpy()]])
            return self.encoder(map_tensors(lambda tensor: tensor.to(self.device), texts))

        features = self.cache.read(torch.from_numpy(distinct), compute)
        targets, references = features[torch.from_numpy(rows)].to(self.device).chunk(2)
        return targets, references

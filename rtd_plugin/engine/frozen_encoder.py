"""ψ₀ as the engine computes it: captions packed, on a CPU each of them once."""

import numpy as np
import torch
from torch import Tensor, nn

from rtd_plugin.clip.tower import TextTower
from rtd_plugin.contract.adapter import Adapter
from rtd_plugin.engine.caption_features import CaptionFeatures
from rtd_plugin.engine.packed_tower import PackedTower
from rtd_plugin.training.batches import Batch, fill_captions, map_tensors, stack_tokens
from rtd_plugin.training.frozen import PlainFrozen
from rtd_plugin.training.order import BatchOrder
from rtd_plugin.triplets.token_store import TokenStore


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
    """Computes a triplet's features once, and reads them from a file afterwards: a third of a step on a CPU.

    Args:
        tower, projection, adapter: as of `PlainFrozen`.
        triplets: the run's.
        order: of its batches.
        cache: features of the triplets' captions, in the order of the first epoch.
    """

    def __init__(
        self,
        tower: TextTower,
        projection: nn.Module,
        adapter: Adapter | None,
        triplets: TokenStore,
        order: BatchOrder,
        cache: CaptionFeatures,
    ):
        super().__init__(tower, projection, adapter)
        self._triplets, self._order, self._cache = triplets, order, cache

    @torch.no_grad()
    def features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return ψ₀'s features of the target captions and of the reference captions, (B, D) each."""
        features = self._cache.read(self._order.find_positions(batch.rows.numpy()), self._compute)
        targets, references = features.to(self.device).unbind(1)
        return targets, references

    def _compute(self, positions: np.ndarray) -> Tensor:
        """Return ψ₀'s features of target and reference captions, (n, 2, D), each distinct caption encoded once."""
        triplets = self._triplets.gather(self._order.rows_at(positions))
        targets, references = (
            fill_captions(captions, self.tower.context_length) for captions in (triplets.targets, triplets.references)
        )
        captions = triplets.captions.T[::-1].flatten()  # of the targets, then of the references
        _, first, inverse = np.unique(captions, return_index=True, return_inverse=True)
        texts = self.encoder.prepare(stack_tokens(targets, references)[first])
        features = self.encoder(map_tensors(lambda tensor: tensor.to(self.device), texts))
        return features[inverse].view(2, len(positions), -1).transpose(0, 1)

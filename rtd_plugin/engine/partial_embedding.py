"""The token embeddings of a vocabulary that training uses a part of.

A token that is in none of a run's texts gets no gradient. AdamW's moments of its embedding stay zero, and all that
ever happens to it is weight decay: after any number of steps it is what it was, times one factor for all. So it needs
neither gradient nor moments.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PartlyTrainedEmbedding(nn.Module):
    """Token embeddings of which some are trained; in a state dict, and to read, they are all there.

    Args:
        whole: (V, W) the embeddings before training, on the device to train on; kept as they are, not copied.
        trained: token ids, ascending.

    Attributes:
        trained: the token ids that are.
        weight: (len(trained), W) the parameter.
        decay: what weight decay has made of the others, as a factor.
    """

    def __init__(self, whole: Tensor, trained: Sequence[int]):
        super().__init__()
        # No buffers: data parallelism would send them around at every step.
        self.trained = torch.tensor(trained, device=whole.device)
        self._whole = whole.detach()
        self._rows = torch.full((len(whole),), -1, device=whole.device)  # of each token in `weight`, -1 for none
        self._rows[self.trained] = torch.arange(len(trained), device=whole.device)
        self.weight = nn.Parameter(self._whole[self.trained])
        self.decay = 1.0

    def forward(self, tokens: Tensor) -> Tensor:
        """Embeddings (…, W) of token ids (…)."""
        rows = self._rows[tokens]
        if rows.device.type == "cpu" and (rows >= 0).all():  # to look would be to wait for a GPU
            return F.embedding(rows, self.weight)
        trained = F.embedding(rows.clamp(min=0), self.weight)
        untrained = self._whole[tokens.masked_fill(rows >= 0, 0)] * self.decay  # of others there is nothing to read
        return torch.where((rows < 0).unsqueeze(-1), untrained, trained)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = (self._whole * self.decay).index_copy(0, self.trained, self.weight.detach())

    def _load_from_state_dict(self, state: Mapping[str, Any], prefix: str, metadata: Any, strict: bool, *lists: Any):
        whole = {f"{prefix}weight": state[f"{prefix}weight"][self.trained.cpu()]}
        super()._load_from_state_dict(whole, prefix, metadata, strict, *lists)

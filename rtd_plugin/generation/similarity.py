"""The similarity of words in a backbone's text space."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import normalize

from rtd_plugin.clip.backbones import Backbone
from rtd_plugin.clip.tokens import tokenize

BATCH = 256


class Embedding:
    """Maps words to features of a backbone's text tower, centred, of unit length.

    CLIP's text features lie in a narrow cone: without centring, all their cosines are large.

    Attributes:
        name: of the backbone and its weights.

    Raises:
        RTDError: the backbone cannot be loaded.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.name = f"{backbone.name} {backbone.checkpoint or ''}"
        self._tower = backbone.load_text_tower().eval()

    @torch.inference_mode()
    def __call__(self, words: Sequence[str]) -> np.ndarray:
        """Return (N, D) features of N words."""
        prompts = [f"a photo of {word}" for word in words]
        batches = [prompts[start : start + BATCH] for start in range(0, len(prompts), BATCH)]
        unit = normalize(torch.cat([self._tower.encode(tokenize(batch)) for batch in batches]), dim=-1)
        return normalize(unit - unit.mean(0), dim=-1).numpy()

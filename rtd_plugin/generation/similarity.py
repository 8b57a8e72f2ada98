"""The similarity of words in a backbone's text space."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import normalize

from rtd_plugin.clip.backbones import Backbone
from rtd_plugin.clip.tokens import tokenize
from rtd_plugin.generation.rules.lexicon import Embed

BATCH = 256


def build_embedding(backbone: Backbone) -> Embed:
    """Return a function that maps N words to (N, D) features of the backbone's text tower, centred, of unit length.

    CLIP's text features lie in a narrow cone: without centring, all their cosines are large.

    Raises:
        RTDError: the backbone cannot be loaded.
    """
    tower = backbone.load_text_tower().eval()

    @torch.inference_mode()
    def embed(words: Sequence[str]) -> np.ndarray:
        prompts = [f"a photo of {word}" for word in words]
        features = [tower.encode(tokenize(prompts[start : start + BATCH])) for start in range(0, len(prompts), BATCH)]
        unit = normalize(torch.cat(features), dim=-1)
        return normalize(unit - unit.mean(0), dim=-1).numpy()

    return embed

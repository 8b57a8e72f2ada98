"""Words in a backbone's text space."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import normalize

from rtd_plugin.clip.backbones import Backbone
from rtd_plugin.clip.tokens import tokenize
from rtd_plugin.generation.rules.lexicon import Embed

BATCH = 256


def embedding(backbone: Backbone) -> Embed:
    """A function from words to their features by the backbone's text tower, of unit length and without their mean.

    CLIP's features of texts lie in a narrow cone: their cosines tell apart only with the mean taken out.

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

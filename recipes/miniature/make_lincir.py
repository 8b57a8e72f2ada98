"""Train LinCIR's projection module for the miniature's CLIP, from captions alone.

    python -m rtd_recipes.miniature.make_lincir CLIP OUT --seed 0

reads CLIP/clip.safetensors and writes OUT/lincir.safetensors. The objective is LinCIR's (Gu et al. 2024, section 3):
a pseudo token made from the caption's own noised feature replaces its keywords, and the tower must reproduce the
caption's feature; for half of the captions the prompt is "a photo of $".
"""

import random
from itertools import groupby

import torch
from rtd_adapters.phi import Phi
from rtd_recipes.miniature.projections import CHUNK, main, minimise
from torch import Tensor
from torch.nn import functional as F

from rtd_plugin.clip.backbones import Backbone
from rtd_plugin.clip.tokens import Prompt, pad, tokenize
from rtd_plugin.miniature.language import KEYWORDS, noisy_caption
from rtd_plugin.miniature.splits import draw_training_scenes

CAPTIONS = 20_000
PEAK_LEARNING_RATE = 1e-3
DROPOUT = 0.1  # LinCIR's 0.5 is for millions of captions and 30 times the channels


def train(clip: Backbone, steps: int, batch_size: int, seed: int) -> Phi:
    """Return the projection module after `steps` batches of captions."""
    tower = clip.load_text_tower().requires_grad_(False)
    torch.manual_seed(seed)
    rng = random.Random(f"miniature lincir {seed}")
    scenes = draw_training_scenes(rng)
    captions = [noisy_caption(next(scenes), rng) for _ in range(CAPTIONS)]
    tokens = tokenize(captions)
    with torch.no_grad():
        features = torch.cat([tower.encode(chunk) for chunk in tokens.split(CHUNK)])  # (CAPTIONS, D)
    masked = pad([Prompt(mask_keywords(caption)).encode() for caption in captions])
    whole = pad([Prompt("a photo of $").encode()]).expand(batch_size // 2, -1)
    phi = Phi(tower.features, tower.width, DROPOUT)

    def loss() -> Tensor:
        chosen = torch.randint(CAPTIONS, (batch_size,))
        noise = torch.rand(batch_size, 1) * torch.randn(batch_size, tower.features)
        pseudo_tokens = phi(features[chosen] + noise)
        queries = torch.cat(
            [
                tower.encode(whole, pseudo_tokens[: len(whole)]),
                tower.encode(masked[chosen[len(whole) :]], pseudo_tokens[len(whole) :]),
            ]
        )
        return F.mse_loss(queries, features[chosen])

    minimise(loss, phi.parameters(), steps, PEAK_LEARNING_RATE, "Training LinCIR's projection")
    return phi


def mask_keywords(caption: str) -> str:
    """Return the caption with one `$` for each run of keywords."""
    runs = groupby(caption.split(), key=KEYWORDS.__contains__)
    return " ".join("$" if is_keyword else " ".join(words) for is_keyword, words in runs)


if __name__ == "__main__":
    main("lincir", train, steps=600, batch_size=256)

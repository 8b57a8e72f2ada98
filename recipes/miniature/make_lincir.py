"""Train LinCIR's projection module for the miniature's CLIP, from captions alone.

    python -m rtd_recipes.miniature.make_lincir CLIP OUT --seed 0

reads CLIP/clip.safetensors and writes OUT/lincir.safetensors. The objective is LinCIR's (Gu et al. 2024, section 3):
a pseudo token made from the caption's own noised feature replaces its keywords, and the tower must reproduce the
caption's feature; for half of the captions the prompt is "a photo of $".
"""

import random
from collections.abc import Callable, Sequence
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
    """Return the projection module after `steps` batches of captions of training scenes."""
    rng = random.Random(f"miniature lincir {seed}")
    scenes = draw_training_scenes(rng)
    captions = [noisy_caption(next(scenes), rng) for _ in range(CAPTIONS)]
    return train_on(captions, [mask_keywords(caption) for caption in captions], clip, steps, batch_size, seed)


def train_on(
    captions: Sequence[str], masked_captions: Sequence[str], clip: Backbone, steps: int, batch_size: int, seed: int
) -> Phi:
    """Return the projection module after `steps` batches of captions; in masked ones `$` replaces keywords."""
    tower = clip.load_text_tower().requires_grad_(False)
    torch.manual_seed(seed)
    tokens = tokenize(captions)
    with torch.no_grad():
        features = torch.cat([tower.encode(chunk) for chunk in tokens.split(CHUNK)])  # (number of captions, D)
    masked = pad([Prompt(caption).encode() for caption in masked_captions])
    whole = pad([Prompt("a photo of $").encode()]).expand(batch_size // 2, -1)
    phi = Phi(tower.features, tower.width, DROPOUT)

    def loss() -> Tensor:
        chosen = torch.randint(len(captions), (batch_size,))
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


def mask_keywords(caption: str, is_keyword: Callable[[str], bool] = KEYWORDS.__contains__) -> str:
    """Return the caption with one `$` for each run of keywords."""
    runs = groupby(caption.split(), key=is_keyword)
    return " ".join("$" if masked else " ".join(words) for masked, words in runs)


if __name__ == "__main__":
    main("lincir", train, steps=600, batch_size=256)

"""Trains LinCIR's projection module for the miniature's CLIP, from captions alone.

    python -m rtd_recipes.miniature.make_lincir CLIP OUT --seed 0

reads CLIP/clip.safetensors and writes OUT/lincir.safetensors. The objective is LinCIR's (Gu et al. 2024, section 3):
the keywords of a caption give way to a pseudo token made from the caption's own noised feature, and the tower has to
find the same feature again; for half of the captions the prompt is "a photo of $".
"""

import argparse
import random
from itertools import groupby
from pathlib import Path

import torch
from rich.progress import track
from rtd_adapters.lincir import Phi
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from rtd_plugin.clip.tokens import Prompt, pad, tokenize
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.miniature.language import KEYWORDS, noisy_caption
from rtd_plugin.miniature.splits import training_scenes

CAPTIONS = 20_000
PEAK_LEARNING_RATE = 1e-3
DROPOUT = 0.1  # LinCIR's 0.5 is for millions of captions and 30 times the channels
CHUNK = 500


def train(tower: TextTower, steps: int, batch_size: int, seed: int) -> Phi:
    """The projection module after `steps` batches of captions."""
    torch.manual_seed(seed)
    rng = random.Random(f"miniature lincir {seed}")
    scenes = training_scenes(rng)
    captions = [noisy_caption(next(scenes), rng) for _ in range(CAPTIONS)]
    tokens = tokenize(captions)
    with torch.no_grad():
        features = torch.cat([tower.encode(chunk) for chunk in tokens.split(CHUNK)])  # (CAPTIONS, D)
    masked = pad([Prompt(mask_keywords(caption)).encode() for caption in captions])
    whole = pad([Prompt("a photo of $").encode()]).expand(batch_size // 2, -1)
    phi = Phi(tower.features, tower.width, DROPOUT)
    optimizer = torch.optim.AdamW(phi.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in track(range(steps), description="Training LinCIR's projection"):
        chosen = torch.randint(CAPTIONS, (batch_size,))
        noise = torch.rand(batch_size, 1) * torch.randn(batch_size, tower.features)
        pseudo_tokens = phi(features[chosen] + noise)
        found = torch.cat(
            [
                tower.encode(whole, pseudo_tokens[: len(whole)]),
                tower.encode(masked[chosen[len(whole) :]], pseudo_tokens[len(whole) :]),
            ]
        )
        loss = F.mse_loss(found, features[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return phi


def mask_keywords(caption: str) -> str:
    """The caption with one `$` for each run of keywords."""
    runs = groupby(caption.split(), key=KEYWORDS.__contains__)
    return " ".join("$" if is_keyword else " ".join(words) for is_keyword, words in runs)


def main() -> None:
    """Train and save in half precision."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", type=Path, help="folder with clip.safetensors")
    parser.add_argument("out", type=Path, help="folder for lincir.safetensors")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=256)
    args = parser.parse_args()
    tower = TextTower.from_state_dict(load_file(args.clip / "clip.safetensors"), activation="gelu").float()
    phi = train(tower.requires_grad_(False), args.steps, args.batch_size, args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    state = {key: value.half() for key, value in phi.state_dict().items()}
    save_file(state, args.out / "lincir.safetensors", {"format_version": "1", "seed": str(args.seed)})


if __name__ == "__main__":
    main()

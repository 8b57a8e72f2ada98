"""Pre-train the miniature's CLIP on rendered scenes and their captions.

    python -m rtd_recipes.miniature.make_clip OUT --seed 0

writes OUT/clip.safetensors, a state dict in open_clip's layout for the model configuration rtd-miniature.json.
"""

import argparse
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor

from rtd_plugin.miniature.language import noisy_caption
from rtd_plugin.miniature.rendering import render
from rtd_plugin.miniature.splits import draw_training_scenes
from rtd_plugin.miniature.world import Scene

MODEL = "rtd-miniature"
CONTEXT_LENGTH = 32  # no caption is longer, and the tower's time is proportional to it
PEAK_LEARNING_RATE = 2e-3
WARMUP_STEPS = 50


def draw_batches(batch_size: int, seed: int) -> Iterator[tuple[Tensor, list[str]]]:
    """Yield batches of new scenes: their images, as `image_batch` returns them, and captions."""
    rng = random.Random(f"miniature clip {seed}")
    scenes = draw_training_scenes(rng)
    while True:
        batch = [next(scenes) for _ in range(batch_size)]
        captions = [noisy_caption(scene, rng) for scene in batch]
        yield image_batch(batch), captions


def pretrain(config: Path, batches: Iterator[tuple[Tensor, list[str]]], steps: int, seed: int) -> dict[str, Tensor]:
    """Train as CLIP (Radford et al. 2021) and return the state dict after `steps` batches.

    Args:
        config: open_clip's model configuration.
        batches: images (B, 3, SIDE, SIDE) and their captions.
        seed: of the first weights.
    """
    torch.manual_seed(seed)
    open_clip.add_model_config(config)
    model = open_clip.create_model(config.stem, force_context_length=CONTEXT_LENGTH)
    model.visual.to(memory_format=torch.channels_last)
    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=CONTEXT_LENGTH)
    optimizer = torch.optim.AdamW(
        _parameter_groups(model), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.98), eps=1e-6, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warmup_cosine(step, steps))
    contrast = open_clip.ClipLoss()
    words = torch.zeros(model.vocab_size, dtype=torch.bool)
    model.train()
    for _ in track(range(steps), description="Pre-training CLIP"):
        images, captions = next(batches)
        tokens = tokenizer(captions)
        words[tokens] = True
        loss = contrast(*model(images, tokens))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
    model.eval()
    with torch.no_grad():
        _match_norms(model, images, tokens)
        model.token_embedding.weight[~words] = 0  # words that no caption has
    return _fill_context(model.state_dict())


def image_batch(scenes: list[Scene]) -> Tensor:
    """Return images as a batch, equal to the result of open_clip's transform: (B, 3, SIDE, SIDE)."""
    return normalise(np.stack([np.asarray(render(scene)) for scene in scenes]))


def normalise(pixels: NDArray[np.uint8]) -> Tensor:
    """Return pixels (B, SIDE, SIDE, 3) as open_clip's transform does: (B, 3, SIDE, SIDE)."""
    mean, std = torch.tensor(OPENAI_DATASET_MEAN), torch.tensor(OPENAI_DATASET_STD)
    return ((torch.from_numpy(pixels) / 255 - mean) / std).permute(0, 3, 1, 2)  # a view: channels stay last in memory


def _parameter_groups(model: torch.nn.Module) -> list[dict]:
    """Return parameter groups with weight decay for matrices only."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]


def _warmup_cosine(step: int, steps: int) -> float:
    return min(1, (step + 1) / WARMUP_STEPS) * (1 + math.cos(math.pi * step / steps)) / 2


def _match_norms(model: Any, images: Tensor, tokens: Tensor) -> None:
    """Scale the image projection so that image and text features have equal norms, as in OpenAI's models.

    The contrastive loss ignores norms, but a projection module trained on text features reads image features
    unscaled.
    """
    image_norm = model.encode_image(images).norm(dim=1).mean()
    text_norm = model.encode_text(tokens).norm(dim=1).mean()
    model.visual.head.proj.weight *= text_norm / image_norm


def _fill_context(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state with CLIP's 77 positions; those beyond all captions are zero."""
    positions = torch.zeros(77, state["positional_embedding"].shape[1])
    positions[:CONTEXT_LENGTH] = state["positional_embedding"]
    return state | {"positional_embedding": positions}


def main() -> None:
    """Pre-train and save in half precision."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for clip.safetensors")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1100)
    parser.add_argument("--batch-size", type=int, default=128)
    args = parser.parse_args()
    config = Path(__file__).with_name(f"{MODEL}.json")
    state = pretrain(config, draw_batches(args.batch_size, args.seed), args.steps, args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    half = {key: value.half().contiguous() if value.is_floating_point() else value for key, value in state.items()}
    save_file(half, args.out / "clip.safetensors", {"format_version": "1", "model": MODEL, "seed": str(args.seed)})


if __name__ == "__main__":
    main()

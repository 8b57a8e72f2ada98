"""Shared code of the programs that train a projection module for the miniature's CLIP."""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from rich.progress import track
from rtd_recipes.miniature.make_clip import MODEL, image_batch
from safetensors.torch import save_file
from torch import Tensor, nn

from rtd_plugin.clip.backbones import Backbone
from rtd_plugin.miniature.world import Scene

CHUNK = 500


def backbone(folder: Path) -> Backbone:
    """Return the CLIP of `folder/clip.safetensors`."""
    return Backbone(str(Path(__file__).with_name(f"{MODEL}.json")), checkpoint=folder / "clip.safetensors")


@torch.no_grad()
def encode_images(clip: Backbone, scenes: Sequence[Scene]) -> Tensor:
    """Return image features of the scenes' images: (N, D), not normalised."""
    encoder = clip.load_image_encoder()
    chunks = (scenes[start : start + CHUNK] for start in range(0, len(scenes), CHUNK))
    return torch.cat([encoder(image_batch(chunk)) for chunk in chunks])


def minimise(
    loss: Callable[[], Tensor], parameters: Iterable[Tensor], steps: int, peak_learning_rate: float, description: str
) -> None:
    """Minimise a stochastic loss with AdamW; the learning rate follows a cosine to zero."""
    optimizer = torch.optim.AdamW(parameters, lr=peak_learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in track(range(steps), description=description):
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()


def main(method: str, train: Callable[[Backbone, int, int, int], nn.Module], steps: int, batch_size: int) -> None:
    """Run the command line: train with its (clip, steps, batch_size, seed) and save in half precision."""
    parser = argparse.ArgumentParser(description=(sys.modules[train.__module__].__doc__ or "").splitlines()[0])
    parser.add_argument("clip", type=Path, help="folder with clip.safetensors")
    parser.add_argument("out", type=Path, help=f"folder for {method}.safetensors")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch-size", type=int, default=batch_size)
    args = parser.parse_args()
    projection = train(backbone(args.clip), args.steps, args.batch_size, args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    state = {key: value.half() for key, value in projection.state_dict().items()}
    save_file(state, args.out / f"{method}.safetensors", {"format_version": "1", "seed": str(args.seed)})

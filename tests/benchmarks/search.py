"""A warm query from Python against what it is made of: encoding one image and one text.

    python tests/benchmarks/search.py [--model ViT-B-32] [--images 216] [--repeat 30] [--threads 2]

Weights are random and pictures noise of 600 × 450 pixels: the time does not depend on them. Both sides alternate in one
process, after three of each; encoding alone opens and prepares the image, and runs both towers and the projection.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import open_clip
import torch
from PIL import Image
from rtd_adapters.lincir import LinCIR
from rtd_adapters.phi import Phi

from rtd_plugin.clip.backbones import ImageEncoder
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.evaluation.image_features import ImageFeatures
from rtd_plugin.evaluation.image_files import open_image
from rtd_plugin.search.galleries import MemoryGallery
from rtd_plugin.search.image_folder import ImageFolder
from rtd_plugin.search.searcher import Searcher

TEXT = "is red and has no laces"


def measure(call: Callable[[], object]) -> tuple[float, float]:
    """Return wall-clock and processor time of a call, in milliseconds."""
    start, start_cpu = time.perf_counter(), time.process_time()
    call()
    return 1000 * (time.perf_counter() - start), 1000 * (time.process_time() - start_cpu)


def write_pictures(folder: Path, count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for index in range(count):
        pixels = torch.randint(256, (12, 16, 3), dtype=torch.uint8, generator=generator).numpy()
        Image.fromarray(pixels).resize((600, 450)).save(folder / f"{index:06d}.jpg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--images", type=int, default=216)
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    clip, _, preprocess = open_clip.create_model_and_transforms(options.model, pretrained=None)
    encoder, adapter = ImageEncoder(clip.visual.eval(), preprocess), LinCIR()
    heads = open_clip.get_model_config(options.model)["text_cfg"]["heads"]
    tower = TextTower.from_state_dict(clip.state_dict(), activation="gelu", heads=heads).eval().requires_grad_(False)
    phi = Phi(tower.features, tower.width).eval().requires_grad_(False)

    @torch.no_grad()
    def encode(file: Path) -> torch.Tensor:
        pseudo_token = phi(encoder(preprocess(open_image(file)).unsqueeze(0)))
        return tower.encode(adapter.prompt.tokenize([TEXT]), pseudo_token, adapter.prompt.placeholder_id)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder, options.images)
        images = ImageFeatures(encoder)
        gallery = MemoryGallery(ImageFolder(data=name), images)
        searcher = Searcher(adapter, images, phi, tower, tower, gallery)
        encodings, queries = [], []
        for index in range(options.repeat + 3):
            file = folder / f"{index % options.images:06d}.jpg"
            encodings.append(measure(lambda file=file: encode(file)))
            queries.append(measure(lambda file=file: searcher.search(file, TEXT, k=10)))
    print(f"{options.model}, {options.images} images, {options.threads} threads, medians of {options.repeat}:")
    for index, name in enumerate(("wall-clock", "processor")):
        encoding, query = (median(each[index] for each in times[3:]) for times in (encodings, queries))
        print(f"  {name} time: encoding one image and one text {encoding:.1f} ms, a query {query:.1f} ms", end="")
        print(f" ({query - encoding:+.1f})")


if __name__ == "__main__":
    main()

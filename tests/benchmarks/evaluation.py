"""The cost of evaluation: retrieval in memory and from disk, kept features, and two text encoders against one.

    python tests/benchmarks/evaluation.py retrieval [--queries 800] [--images 123403] [--features 768]
    python tests/benchmarks/evaluation.py disk [--queries 1000] [--images 3000000] [--features 768] [--folder .]
    python tests/benchmarks/evaluation.py cache [--images 1000000] [--features 768] [--folder .]
    python tests/benchmarks/evaluation.py cost [--model ViT-B-32] [--images 200] [--queries-per-image 1.82]

Features and weights are random: the time does not depend on them. `cost` has the proportions of CIRR's validation split
(4181 queries, 2297 images; conditions of 4 to 18 words, on average 11) and pictures of 600 × 450 pixels; each
evaluation starts with an empty cache. Seconds are processor time, summed over threads. `disk` ranks features in float16
that lie in a file (--folder needs 2 bytes for each), mapped into memory a block at a time, and compares with one matrix
product of the same size that reads the same file; memory is the largest that the process ever had, mapped pages
included.
"""

import argparse
import multiprocessing
import random
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rtd_adapters.lincir import LinCIR
from rtd_adapters.phi import Phi
from torch.nn import functional as F

from rtd_plugin.clip.backbones import ImageEncoder
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.evaluation.benchmark import Query
from rtd_plugin.evaluation.benchmarks.files import FileBenchmark
from rtd_plugin.evaluation.comparison import compare
from rtd_plugin.evaluation.feature_cache import FeatureCache, hash_text
from rtd_plugin.evaluation.image_features import ImageFeatures
from rtd_plugin.evaluation.ranking import Gallery
from rtd_plugin.evaluation.retrieval import DEPTH, Retrieval

ROWS = 4096  # of a file's features that are written, or multiplied, at once
WORDS = (
    "make",
    "two",
    "dogs",
    "stand",
    "on a",
    "small",
    "red",
    "boat",
    "and",
    "remove",
    "people",
    "with",
    "blue",
    "hats",
)


def measure_peak_memory() -> float:
    """Return the peak memory of this process, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure_retrieval(queries: int, images: int, features: int) -> None:
    """Rank random queries, and print time and memory."""
    generator = torch.Generator().manual_seed(0)
    image_features = F.normalize(torch.randn(images, features, generator=generator), dim=-1)
    query_features = F.normalize(torch.randn(queries, features, generator=generator), dim=-1)
    targets = [[query % images, (7 * query + 1) % images] for query in range(queries)]
    memory_before = measure_peak_memory()
    start, wall_start = time.process_time(), time.monotonic()
    gallery = Gallery(image_features)
    preparation = time.process_time() - start
    gallery.rank(query_features, targets, depth=DEPTH)
    total = time.process_time() - start
    print(f"{queries} queries × {images} images × {features}, the best {DEPTH} images and the ranks of all targets:")
    print(f"  {total:.1f} s of processor time ({preparation:.1f} s to prepare the gallery once), ", end="")
    print(f"{time.monotonic() - wall_start:.1f} s of wall-clock time")
    print(f"  memory: {memory_before:.2f} GiB with the features, {measure_peak_memory():.2f} GiB at the peak")


class FeatureFile:
    """Features (N, D) in a file; in memory are only the rows that are asked for."""

    device = torch.device("cpu")

    def __init__(self, path: Path, shape: tuple[int, int]):
        self.path, self.shape = path, shape

    def __getitem__(self, rows: slice | torch.Tensor) -> torch.Tensor:
        mapped = np.memmap(self.path, np.float16, "r", shape=self.shape)
        return torch.from_numpy(np.array(mapped[rows]))  # a copy: the mapping ends here


def write_features(path: str, images: int, features: int) -> None:
    """Write random features in float16."""
    generator = torch.Generator().manual_seed(0)
    with open(path, "wb") as file:
        for start in range(0, images, ROWS):
            rows = torch.randn(min(ROWS, images - start), features, generator=generator)
            file.write(F.normalize(rows, dim=-1).half().numpy().tobytes())


def measure_disk(queries: int, images: int, features: int, folder: Path) -> None:
    """Rank random queries against features in a file, and print time and memory."""
    generator = torch.Generator().manual_seed(1)
    query_features = F.normalize(torch.randn(queries, features, generator=generator), dim=-1)
    targets = [[query % images, (7 * query + 1) % images] for query in range(queries)]
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        writer = multiprocessing.get_context("spawn").Process(target=write_features, args=(file.name, images, features))
        writer.start()  # in a process of its own, whose memory does not count
        writer.join()
        on_disk = FeatureFile(Path(file.name), (images, features))
        memory_before, start, wall_start = measure_peak_memory(), time.process_time(), time.monotonic()
        for row in range(0, images, ROWS):
            query_features @ on_disk[row : min(row + ROWS, images)].float().T
        product, product_wall = time.process_time() - start, time.monotonic() - wall_start
        start, wall_start = time.process_time(), time.monotonic()
        gallery = Gallery(on_disk)
        preparation = time.process_time() - start
        gallery.rank(query_features, targets, depth=DEPTH)
        total, wall = time.process_time() - start, time.monotonic() - wall_start
    print(f"{queries} queries × {images} images × {features} in a file, the best {DEPTH} and the ranks of all targets:")
    print(f"  {total:.1f} s of processor time ({preparation:.1f} s to prepare the gallery once), {wall:.1f} s in all")
    print(f"  one product of this size, read from the file: {product:.1f} s, {product_wall:.1f} s in all")
    print(f"  peak memory: {memory_before:.2f} GiB with torch alone, {measure_peak_memory():.2f} GiB after ranking")


def measure_cache(images: int, features: int, folder: Path) -> None:
    """Fill a cache of features, and print how long another one takes to find them all."""
    keys = [hash_text(str(index)) for index in range(images)]
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        start = time.monotonic()
        FeatureCache(Path(cache)).fetch(keys, lambda indices: dict.fromkeys(indices, torch.ones(features)))
        print(f"{images} vectors of {features}: {time.monotonic() - start:.1f} s to fill the cache")
        start, wall_start = time.process_time(), time.monotonic()
        missing = FeatureCache(Path(cache)).count_missing(keys)
        seconds, wall = time.process_time() - start, time.monotonic() - wall_start
        print(f"  {seconds:.2f} s of processor time, {wall:.2f} s in all, to open it ({missing} missing)")


class Photographs(FileBenchmark):
    """Queries in the proportions of CIRR."""

    name = "photographs"
    excludes_reference = True

    query_count: int

    def queries(self) -> list[Query]:
        rng, names = random.Random(0), self.gallery()
        conditions = (" ".join(rng.choices(WORDS, k=rng.randint(4, 18))) for _ in range(self.query_count))
        return [Query(*self._pair(rng, names, condition)) for condition in conditions]

    def _pair(self, rng: random.Random, names: list[str], condition: str) -> tuple:
        reference, target = rng.sample(names, 2)
        return reference, (condition,), (target,)

    def gallery(self) -> list[str]:
        return sorted(path.name for path in self.data.iterdir())

    def path(self, name: str) -> Path:
        return self.data / name


def measure_cost(model: str, images: int, queries_per_image: float) -> None:
    """Evaluate one and two text encoders, and print the ratio of their times."""
    import open_clip  # which needs 250 MB

    torch.manual_seed(0)
    clip, _, preprocess = open_clip.create_model_and_transforms(model, pretrained=None)
    config = open_clip.get_model_config(model)
    heads = config["text_cfg"]["heads"]
    towers = [TextTower.from_state_dict(clip.state_dict(), activation="gelu", heads=heads).eval() for _ in range(2)]
    phi = Phi(towers[0].features, towers[0].width).eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder:
        pixels = torch.randint(256, (images, 12, 16, 3), dtype=torch.uint8).numpy()
        for index, picture in enumerate(pixels):
            Image.fromarray(picture).resize((600, 450)).save(Path(folder) / f"{index:06d}.jpg")
        benchmark = Photographs(data=folder, query_count=round(images * queries_per_image))
        seconds = {}
        for tuned_encoders in (0, 1):
            start = time.process_time()
            image_features = ImageFeatures(ImageEncoder(clip.visual.eval(), preprocess), workers=2)
            retrieval = Retrieval(benchmark, LinCIR(), image_features, phi, towers[0])
            image_seconds = time.process_time() - start
            compare(retrieval, towers[0], {Path("tuned"): lambda: towers[1]} if tuned_encoders else {}).to_dict()
            seconds[tuned_encoders] = time.process_time() - start
            print(
                f"{tuned_encoders} tuned: {seconds[tuned_encoders]:.1f} s of processor time, "
                f"{image_seconds:.1f} s of it for images",
                flush=True,
            )
    print(f"{model}, {images} images, {benchmark.query_count} queries: ", end="")
    print(f"evaluating before and after costs {seconds[1] / seconds[0]:.3f} times one evaluation")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("retrieval")
    command.add_argument("--queries", type=int, default=800)
    command.add_argument("--images", type=int, default=123_403)
    command.add_argument("--features", type=int, default=768)
    command.set_defaults(run=measure_retrieval)
    command = commands.add_parser("disk")
    command.add_argument("--queries", type=int, default=1000)
    command.add_argument("--images", type=int, default=3_000_000)
    command.add_argument("--features", type=int, default=768)
    command.add_argument("--folder", type=Path)
    command.set_defaults(run=measure_disk)
    command = commands.add_parser("cache")
    command.add_argument("--images", type=int, default=1_000_000)
    command.add_argument("--features", type=int, default=768)
    command.add_argument("--folder", type=Path)
    command.set_defaults(run=measure_cache)
    command = commands.add_parser("cost")
    command.add_argument("--model", default="ViT-B-32")
    command.add_argument("--images", type=int, default=200)
    command.add_argument("--queries-per-image", type=float, default=4181 / 2297)
    command.set_defaults(run=measure_cost)
    options = vars(parser.parse_args())
    options.pop("run")(**options)


if __name__ == "__main__":
    main()

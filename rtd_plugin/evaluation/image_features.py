"""Features of images: read by several threads, encoded in batches, kept on disk; errors name the images."""

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, get_args

import torch
from PIL import Image, ImageOps
from torch import Tensor

from rtd_plugin.cache import cache_folder, hash_key
from rtd_plugin.clip.backbones import ImageEncoder
from rtd_plugin.errors import RTDError, UsageError
from rtd_plugin.evaluation.benchmark import Benchmark
from rtd_plugin.evaluation.feature_cache import FeatureCache, StoredVectors, hash_text
from rtd_plugin.evaluation.image_files import check_size, decode_smaller
from rtd_plugin.evaluation.precision import Precision, choose_precision, compute_in
from rtd_plugin.evaluation.tower_digest import hash_tower
from rtd_plugin.progress import Advance, ignore_progress
from rtd_plugin.triplets.parallel import count_processors

BATCHES = {"cpu": 64, "cuda": 256}  # images encoded together
DRAFT_SIDE = 2  # times the tower's: JPEGs are decoded no smaller in bf16
TARGET_RATIO = 1.25  # of an image's sides: longer images are padded
NAMED = 5  # images that a message names

Preprocessing = Literal["clip", "targetpad"]


class UnreadableImages(RTDError):
    """Images of a benchmark are missing or cannot be read.

    Attributes:
        reasons: what is wrong with each, by name.
    """

    def __init__(self, benchmark: Benchmark, reasons: Mapping[str, str]):
        self.reasons = reasons
        (name, reason), count = next(iter(reasons.items())), len(reasons)
        problem = f"the image {name} cannot be read ({reason})"
        if count > 1:
            problem = f"{count} images cannot be read: {name_images(reasons)} ({name}: {reason})"
        source = f"; they are from {benchmark.source()}" if benchmark.home else ""
        super().__init__(f"{benchmark.name}: {problem}{source}")


def name_images(names: Iterable[str]) -> str:
    """Return the first names for a message, with an ellipsis if there are more."""
    names = list(names)
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")


def pad_to_ratio(image: Image.Image) -> Image.Image:
    """Add black on both ends of an image's shorter sides, so that the ratio of its sides is at most 1.25.

    `targetpad` of Baldrati et al., Effective conditioned and composed image retrieval combining CLIP-based features
    (CVPR 2022), with the rounding of the hosts that use it.

    Raises:
        RTDError: the padded image would be too large.
    """
    longest = max(image.size)
    if longest / min(image.size) < TARGET_RATIO:
        return image
    across, down = (max(int((longest / TARGET_RATIO - side) / 2), 0) for side in image.size)
    check_size("padded", (image.width + 2 * across, image.height + 2 * down))
    return ImageOps.expand(image, (across, down, across, down), fill=0)


class ImageFeatures:
    """Computes features of images, unless they are in the cache.

    Args:
        encoder: CLIP's image tower.
        preprocessing: how images are prepared for it: as CLIP does ("clip"), or long ones padded first ("targetpad").
        device: where it computes.
        folder: where features are kept; None to keep none.
        workers: threads that read images; None for one a core.
        precision: in which images are encoded, see `rtd_plugin.evaluation.precision`; None for the device's. In bf16,
            large JPEGs are decoded at a fraction of their size, no smaller than twice the tower's.

    Raises:
        UsageError: there is no such preprocessing, or the device lacks the precision.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        preprocessing: Preprocessing = "clip",
        device: torch.device | str = "cpu",
        folder: Path | None = None,
        workers: int | None = None,
        precision: Precision | None = None,
    ):
        if preprocessing not in get_args(Preprocessing):
            raise UsageError(f"preprocess: {preprocessing!r} is not one of {', '.join(get_args(Preprocessing))}")
        self.device = torch.device(device)
        self.preprocessing = preprocessing
        self.precision = choose_precision(precision, self.device)
        steps = re.sub(r" at 0x[0-9a-f]+", "", str(encoder.preprocess))  # torchvision's description of them
        clip = encoder.preprocess
        is_padded = preprocessing == "targetpad"
        self._loaded = replace(encoder, preprocess=lambda image: clip(pad_to_ratio(image))) if is_padded else encoder
        self._workers = workers or count_processors()
        self._batch = BATCHES.get(self.device.type, BATCHES["cpu"])
        self._compute_digest = partial(
            hash_tower, encoder, (folder or cache_folder()) / "image-towers", steps, preprocessing
        )
        self._cache = FeatureCache(folder / "images" / self._name_folder() if folder is not None else None)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that features depend on but images and rounding: the tower and the preprocessing."""
        return self._compute_digest()

    def _name_folder(self) -> str:
        return self.digest if self.precision == "fp32" else hash_key([self.digest, self.precision])

    def compute(self) -> AbstractContextManager[None]:
        """Compute in this precision within the block: queries are encoded as images are."""
        return compute_in(self.precision, self.device)

    def encode(self, benchmark: Benchmark, names: Sequence[str], advance: Advance = ignore_progress) -> Tensor:
        """Return features of a benchmark's images: (N, D) float32 on the CPU, not normalised.

        Args:
            advance: called with the number of uncached images done, and their total.

        Raises:
            UnreadableImages: images are missing, or cannot be read; all others have been encoded in the latter case.
            RTDError: an image must not be read.
        """
        return self._open(benchmark, names, advance)[:]

    def _open(self, benchmark: Benchmark, names: Sequence[str], advance: Advance) -> StoredVectors:
        stamps = _read_stamps(benchmark, names)
        cache = self._cache if None not in stamps else FeatureCache(None)
        keys = [hash_text(stamp or name) for stamp, name in zip(stamps, names, strict=True)]
        total, done = cache.count_missing(keys), 0
        broken: dict[str, Exception] = {}

        def compute(indices: Sequence[int]) -> Mapping[int, Tensor]:
            nonlocal done
            vectors: dict[int, Tensor] = {}
            for batch, images in self._read_batches(benchmark, names, indices, broken):
                if images:
                    features = self.encode_pixels(torch.stack(list(images.values())))
                    vectors |= dict(zip(images, features, strict=True))
                done += len(batch)
                advance(done, total)
            return vectors

        try:
            # Pillow warns of images that `open_image` refuses, and of broken metadata. Filters are not thread-safe: set
            # it around the threads.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", module=r"PIL\.")
                return cache.fetch(keys, compute)
        except RTDError:
            if broken:
                in_order = {name: broken[name] for name in names if name in broken}
                raise UnreadableImages(benchmark, _describe(in_order)) from next(iter(in_order.values()))
            raise

    def encode_readable(
        self, benchmark: Benchmark, names: Sequence[str], advance: Advance = ignore_progress
    ) -> tuple[StoredVectors, dict[str, str]]:
        """Return the features of the images that can be read, (N, D), and what is wrong with the others, by name.

        The features are read from the cache when they are asked for.

        Raises:
            UnreadableImages: the benchmark does not skip unreadable images, or none can be read.
        """
        unreadable: dict[str, str] = {}
        while True:  # missing images are found first, then broken ones
            try:
                readable = [name for name in names if name not in unreadable]
                return self._open(benchmark, readable, advance), unreadable
            except UnreadableImages as error:
                unreadable |= error.reasons
                if not benchmark.skip_unreadable or len(unreadable) == len(set(names)):
                    raise

    def prepare(self, read: Callable[[], Image.Image]) -> Tensor:
        """Return an image's pixels (3, H, W) as the image tower reads them; may run in any thread.

        Args:
            read: opens the image, by `open_image` or `decode_image`.
        """
        with decode_smaller(self._find_draft_side()):
            return self._loaded.preprocess(read())

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Return features (N, D) float32 on the CPU, not normalised, of prepared pixels (N, 3, H, W)."""
        with self.compute():
            return self._encoder(self._move(pixels)).float().cpu()

    def encode_pixel_patches(self, pixels: Tensor) -> Tensor:
        """Return patch tokens (N, 1 + P, V) float32 on the device of prepared pixels (N, 3, H, W).

        Raises:
            RTDError: the image tower has no patch tokens.
        """
        with self.compute():
            return self._encoder.encode_patches(self._move(pixels)).float()

    def encode_patches(self, benchmark: Benchmark, names: Sequence[str]) -> Tensor:
        """Return patch tokens of a benchmark's images, (N, 1 + P, V) float32 on the device.

        Raises:
            UnreadableImages: images are missing, or cannot be read.
            RTDError: the image tower has no patch tokens.
        """
        broken: dict[str, Exception] = {}
        batches = [
            self.encode_pixel_patches(torch.stack(list(images.values())))
            for _, images in self._read_batches(benchmark, names, range(len(names)), broken)
            if images
        ]
        if broken:
            raise UnreadableImages(benchmark, _describe(broken)) from next(iter(broken.values()))
        return torch.cat(batches)

    @cached_property
    def _encoder(self) -> ImageEncoder:
        self._loaded.visual.to(self.device)  # when the first image is encoded
        return self._loaded

    def _move(self, pixels: Tensor) -> Tensor:
        """Return pixels on the device; a GPU fetches them from pinned memory."""
        return pixels.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else pixels

    def _read_batches(
        self, benchmark: Benchmark, names: Sequence[str], indices: Sequence[int], broken: dict[str, Exception]
    ) -> Iterator[tuple[Sequence[int], Mapping[int, Tensor]]]:
        """Yield batches of indices, each with the images that could be read, while the next batch is being read."""

        def read(index: int) -> Tensor | None:
            try:
                return self.prepare(lambda: benchmark.image(names[index]))
            except Exception as error:  # Pillow and benchmarks of other packages may raise anything
                broken[names[index]] = error
                return None

        batches = [indices[start : start + self._batch] for start in range(0, len(indices), self._batch)]
        with ThreadPoolExecutor(self._workers) as pool:  # starts a thread only for what is submitted
            ahead = pool.map(read, batches[0]) if len(indices) > 1 else map(read, indices)
            for batch, following in zip(batches, (*batches[1:], ()), strict=True):
                images, ahead = ahead, pool.map(read, following)
                yield batch, {index: image for index, image in zip(batch, images, strict=True) if image is not None}

    def _find_draft_side(self) -> int | None:
        """Return the side that JPEGs have at least when they are decoded at a fraction; None to decode all whole."""
        size = getattr(self._loaded.visual, "image_size", None)  # as open_clip's towers have it
        if self.precision != "bf16" or size is None:
            return None
        return DRAFT_SIDE * max((size,) if isinstance(size, int) else size)


def _read_stamps(benchmark: Benchmark, names: Sequence[str]) -> list[str | None]:
    stamps: list[str | None] = []
    missing: dict[str, Exception] = {}
    for name in names:
        try:
            stamps.append(benchmark.stamp(name))
        except OSError as error:
            missing[name] = error
    if missing:
        raise UnreadableImages(benchmark, _describe(missing)) from next(iter(missing.values()))
    return stamps


def _describe(errors: Mapping[str, Exception]) -> dict[str, str]:
    return {
        name: str(error) if isinstance(error, RTDError) else f"{type(error).__name__}: {error}"
        for name, error in errors.items()
    }

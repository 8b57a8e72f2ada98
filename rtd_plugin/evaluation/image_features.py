"""Images to features: read by several threads, encoded batch by batch, each failure by the image's name."""

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from rtd_plugin.clip.backbones import ImageEncoder
from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation.benchmark import Benchmark
from rtd_plugin.evaluation.feature_cache import FeatureCache, hash_module, hash_text
from rtd_plugin.evaluation.pictures import check_size

BATCH = 64
TARGET_RATIO = 1.25  # of a picture's sides, beyond which it is padded
NAMED = 5  # images that a message names

Preprocessing = Literal["clip", "targetpad"]
Report = Callable[[int, int], None]


def pad_to_ratio(image: Image.Image) -> Image.Image:
    """The picture with black on both of its long sides, so that its sides are no more than 1 to 1.25.

    `targetpad` of Baldrati et al., Effective conditioned and composed image retrieval combining CLIP-based features
    (CVPR 2022), with the rounding of the hosts that use it.

    Raises:
        RTDError: the padded picture would be too large.
    """
    longest = max(image.size)
    if longest / min(image.size) < TARGET_RATIO:
        return image
    across, down = (max(int((longest / TARGET_RATIO - side) / 2), 0) for side in image.size)
    check_size("padded", (image.width + 2 * across, image.height + 2 * down))
    return ImageOps.expand(image, (across, down, across, down), fill=0)


def select_preprocessing(encoder: ImageEncoder, preprocessing: Preprocessing) -> ImageEncoder:
    """An encoder that prepares images as CLIP does, or pads long ones before."""
    if preprocessing == "clip":
        return encoder
    clip = encoder.preprocess
    return replace(encoder, preprocess=lambda image: clip(pad_to_ratio(image)))


class ImageFeatures:
    """The features of images, and the pseudo tokens of some, as far as the cache does not have them.

    Args:
        encoder: CLIP's image tower.
        preprocessing: how images are prepared for it.
        device: where it works.
        folder: where features are kept; None to keep none.
        workers: threads that read images.
    """

    def __init__(
        self,
        encoder: ImageEncoder,
        preprocessing: Preprocessing = "clip",
        device: torch.device | str = "cpu",
        folder: Path | None = None,
        workers: int = 4,
    ):
        self.device = torch.device(device)
        self.preprocessing = preprocessing
        prepares = re.sub(r" at 0x[0-9a-f]+", "", str(encoder.preprocess))  # torchvision's description of itself
        self.digest = hash_module(encoder.visual, prepares, preprocessing)
        self._encoder = select_preprocessing(encoder, preprocessing)
        self._folder = folder
        self._workers = workers
        self._cache = self._cache_of("images", self.digest)

    def features(self, benchmark: Benchmark, names: Sequence[str], report: Report = lambda done, total: None) -> Tensor:
        """Features of a benchmark's images: (N, D) float32 on the CPU, not normalised.

        Args:
            report: called with how many images are done, and of how many that the cache does not have.

        Raises:
            RTDError: images are missing or cannot be read; it names them, after all others have been encoded.
        """
        stamps = _stamps(benchmark, names)
        cache = self._cache if all(stamp is not None for stamp in stamps) else FeatureCache(None)
        keys = [hash_text(stamp or name) for stamp, name in zip(stamps, names, strict=True)]
        total, done = cache.missing(keys), 0
        broken: dict[str, Exception] = {}
        self._encoder.visual.to(self.device)

        def compute(numbers: Sequence[int]) -> Mapping[int, Tensor]:
            nonlocal done
            vectors: dict[int, Tensor] = {}
            for batch, images in self._read(benchmark, names, numbers, broken):
                if images:
                    features = self._encode(torch.stack(list(images.values())))
                    vectors |= dict(zip(images, features, strict=True))
                done += len(batch)
                report(done, total)
            return vectors

        try:
            return cache.vectors(keys, compute)
        except RTDError:
            if broken:
                raise _unreadable(benchmark, broken) from next(iter(broken.values()))
            raise

    @torch.no_grad()
    def pseudo_tokens(
        self, projection: nn.Module, benchmark: Benchmark, names: Sequence[str], features: Tensor
    ) -> Tensor:
        """Pseudo tokens of images from their features (N, D): (N, W) or (N, n, W) float32 on the CPU."""
        stamps = _stamps(benchmark, names)
        name = f"{self.digest}-{hash_module(projection)}"
        cache = FeatureCache(None) if None in stamps else self._cache_of("pseudo-tokens", hash_text(name).hex())
        projection = projection.to(self.device)

        def compute(numbers: Sequence[int]) -> Mapping[int, Tensor]:
            return dict(zip(numbers, projection(features[list(numbers)].to(self.device)), strict=True))

        return cache.vectors([hash_text(stamp or name) for stamp, name in zip(stamps, names, strict=True)], compute)

    def _cache_of(self, what: str, digest: str) -> FeatureCache:
        return FeatureCache(self._folder / what / digest if self._folder is not None else None)

    @torch.no_grad()
    def _encode(self, images: Tensor) -> Tensor:
        return self._encoder(images.to(self.device)).float().cpu()

    def _read(
        self, benchmark: Benchmark, names: Sequence[str], numbers: Sequence[int], broken: dict[str, Exception]
    ) -> Iterator[tuple[Sequence[int], Mapping[int, Tensor]]]:
        """Batches of numbers, each with the images that could be read, while the next batch is being read."""

        def read(number: int) -> Tensor:
            return self._encoder.preprocess(benchmark.image(names[number]))

        def ready(batch: Mapping[int, Future[Tensor]]) -> tuple[Sequence[int], Mapping[int, Tensor]]:
            images = {}
            for number, future in batch.items():
                try:
                    images[number] = future.result()
                except Exception as error:  # Pillow fails in many ways on a broken file; a benchmark may be anybody's
                    broken[names[number]] = error
            return list(batch), images

        with ThreadPoolExecutor(self._workers) as pool:
            ahead: deque[Mapping[int, Future[Tensor]]] = deque()
            for start in range(0, len(numbers), BATCH):
                ahead.append({number: pool.submit(read, number) for number in numbers[start : start + BATCH]})
                if len(ahead) > 1:
                    yield ready(ahead.popleft())
            while ahead:
                yield ready(ahead.popleft())


def _stamps(benchmark: Benchmark, names: Sequence[str]) -> list[str | None]:
    stamps: list[str | None] = []
    missing: dict[str, Exception] = {}
    for name in names:
        try:
            stamps.append(benchmark.stamp(name))
        except (OSError, RTDError) as error:
            missing[name] = error
    if missing:
        raise _unreadable(benchmark, missing) from next(iter(missing.values()))
    return stamps


def _unreadable(benchmark: Benchmark, broken: Mapping[str, Exception]) -> RTDError:
    """All that is wrong with a benchmark's images in one sentence."""
    name, error = next(iter(broken.items()))
    if len(broken) == 1:
        reason = str(error) if isinstance(error, RTDError) else f"{type(error).__name__}: {error}"
        what = f"the image {name} cannot be read ({reason})"
    else:
        more = ", …" if len(broken) > NAMED else ""
        what = f"{len(broken)} images cannot be read: {', '.join(list(broken)[:NAMED])}{more} ({name}: {error})"
    return RTDError(f"{benchmark.name}: {what}" + (f"; they are from {benchmark.home}" if benchmark.home else ""))

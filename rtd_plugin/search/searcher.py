"""Composed queries from Python: an image and a text to a feature, or to the best images of a gallery."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from rtd_plugin.clip.tower import TextTower
from rtd_plugin.contract.adapter import Adapter
from rtd_plugin.errors import UsageError
from rtd_plugin.evaluation.encoding import check_text, compose, make_project
from rtd_plugin.evaluation.image_features import ImageFeatures
from rtd_plugin.search.galleries import SearchedGallery
from rtd_plugin.search.gallery_store import Match
from rtd_plugin.search.queries import CallerImages, Images, check_references, list_images


@dataclass(frozen=True, eq=False)
class Searcher:
    """Composes queries and searches a gallery; `rtd_plugin.load` creates it. Its models stay loaded.

    A query is encoded by the code that `evaluate` uses: the same images and texts in the same batches give the same
    features, to the last bit. Other batches may change the last digits, as they do in any matrix product.

    Attributes:
        adapter: the method.
        images: the image tower.
        projection: φ, on the device of `images`.
        tower: the text encoder, tuned or frozen, on the same device.
        pretrained: ψ₀, the pre-trained text encoder.
        gallery: what `search` searches; None for nothing.
    """

    adapter: Adapter
    images: ImageFeatures
    projection: nn.Module
    tower: TextTower
    pretrained: TextTower
    gallery: SearchedGallery | None = None

    @property
    def frozen(self) -> Searcher:
        """The same searcher with the pre-trained text encoder."""
        return replace(self, tower=self.pretrained.to(self.images.device))

    def encode_images(self, images: Images, normalize: bool = True) -> Tensor:
        """Encode images for your own gallery, or with `normalize=False` for `compose`.

        Args:
            images: one image, or a list: paths, PIL images, or arrays of pixels, (H, W, 3) uint8 in RGB.
            normalize: to length 1.

        Returns:
            (D,) float32 on the CPU, or (N, D) for a list.

        Raises:
            UsageError: an image is something else.
            RTDError: an image is missing or cannot be read.
        """
        listed, is_single = list_images(images)
        if any(isinstance(each, Tensor) for each in listed):
            raise UsageError("image: already a feature")
        features = self._encode(listed)
        if normalize:
            features = F.normalize(features, dim=-1)
        return features[0] if is_single else features

    def compose(self, image: Images, text: str | Sequence[str]) -> Tensor:
        """Encode composed queries: images, changed as texts say.

        Args:
            image: one reference image, or a list: paths, PIL images, arrays of pixels, or features of `encode_images`
                with `normalize=False`.
            text: one condition, or a list. One image goes with all texts, and one text with all images.

        Returns:
            Normalised features: (D,) float32 on the CPU, or (Q, D) if there is a list.

        Raises:
            UsageError: an image is something else, or there are not as many images as texts.
            RTDError: an image is missing or cannot be read.

        Example:
            >>> searcher = rtd_plugin.load("runs/mine")  # doctest: +SKIP
            >>> searcher.compose("shoe.jpg", ["is red", "has no laces"]).shape  # doctest: +SKIP
            torch.Size([2, 768])
        """
        listed, is_single = list_images(image)
        texts = [text] if isinstance(text, str) else text
        if not isinstance(texts, Sequence) or not texts or not all(isinstance(each, str) for each in texts):
            raise UsageError("text: needs a condition, or a list of conditions")
        for each in texts:
            check_text(each)
        if len(listed) != len(texts) and 1 not in (len(listed), len(texts)):
            raise UsageError(f"{len(listed)} images and {len(texts)} texts: pass as many of both, or one of either")
        references = self._encode(listed)
        queries = max(len(listed), len(texts))
        references = references.expand(queries, -1)

        def read_patches(rows: Sequence[int]) -> Tensor:
            return self._encode_patches([listed[row if len(listed) > 1 else 0] for row in rows])

        conditions = list(texts) * queries if len(texts) == 1 else texts
        (features,) = self.compose_with([self.tower], references, conditions, read_patches)
        return features[0] if is_single and isinstance(text, str) else features

    def compose_with(
        self,
        towers: Sequence[TextTower],
        references: Tensor,
        texts: Sequence[str],
        read_patches: Callable[[Sequence[int]], Tensor],
    ) -> list[Tensor]:
        """Encode composed queries with several text encoders; the references are projected once.

        Args:
            towers: the text encoders, on the device of `images`.
            references: (Q, D) features of the reference images, not normalised.
            texts: a condition of each.
            read_patches: gives the patch tokens (N, 1 + P, V) of references, by their rows.

        Returns:
            Normalised features (Q, D) float32 on the CPU for each text encoder.
        """
        conditions = [(text,) for text in texts]
        with self.images.compute():
            pseudo_tokens = make_project(
                self.adapter, self.projection, self.pretrained, references, self.images.device, read_patches
            )
            features = [compose(tower, self.adapter, conditions, pseudo_tokens) for tower in towers]
        return [F.normalize(each, dim=-1).cpu() for each in features]

    def search(
        self, image: Images, text: str | Sequence[str], k: int = 10, where: str | None = None
    ) -> list[Match] | list[list[Match]]:
        """Return the best images of the gallery for a composed query, best first, without the reference image.

        Args:
            image, text: as of `compose`.
            k: how many images; fewer if the gallery has fewer.
            where: a condition on an index's columns, in SQL, such as `"price < 50 AND category = 'shoes'"`.

        Returns:
            A list of matches, or one for each query if `image` or `text` is a list.

        Raises:
            UsageError: as `compose`; or there is no gallery, `k` is not positive, or `where` is wrong.
            RTDError: as `compose`.
        """
        if self.gallery is None:
            raise UsageError("no gallery to search: pass images=FOLDER or index=PATH to rtd_plugin.load")
        if k < 1:
            raise UsageError(f"k: {k} is not positive")
        features = self.compose(image, text)
        queries = features.unsqueeze(0) if features.ndim == 1 else features
        listed, _ = list_images(image)
        names = [self._find_name(each) for each in (listed * len(queries) if len(listed) == 1 else listed)]
        matches = self.gallery.search(queries, k, names, where)
        return matches[0] if features.ndim == 1 else matches

    def _find_name(self, image: Any) -> str | None:
        is_path = isinstance(image, str | os.PathLike)
        return self.gallery.find_name(Path(image)) if is_path and self.gallery is not None else None

    def _encode_patches(self, listed: Sequence[Any]) -> Tensor:
        """Return patch tokens (N, 1 + P, V) of images."""
        if any(isinstance(each, Tensor) for each in listed):
            raise UsageError(f"image: {self.adapter.name} reads patch tokens: pass images instead of features")
        names = [f"<image {index}>" for index in range(len(listed))]
        benchmark = CallerImages(images=dict(zip(names, listed, strict=True)))
        return self.images.encode_patches(benchmark, names)

    def _encode(self, listed: Sequence[Any]) -> Tensor:
        """Return features (N, D) float32 on the CPU, not normalised; a path that is listed twice is encoded once."""
        names = [
            f"<image {index}>" if isinstance(each, Image.Image) else str(each)
            for index, each in enumerate(listed)
            if not isinstance(each, Tensor)
        ]
        given = [each for each in listed if isinstance(each, Tensor)]
        if given:
            if len({each.shape for each in given}) > 1:
                raise UsageError("image: features of several sizes")
            check_references(torch.stack(given), self.tower.features)
        if not names:
            return torch.stack(given)
        images = [each for each in listed if not isinstance(each, Tensor)]
        benchmark = CallerImages(images=dict(zip(names, images, strict=True)))
        encoded = iter(self.images.encode(benchmark, names))
        return torch.stack([each if isinstance(each, Tensor) else next(encoded) for each in listed])

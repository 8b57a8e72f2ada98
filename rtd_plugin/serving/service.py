"""What the service does, apart from HTTP: reads images, answers queries, shows images of the gallery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import BinaryIO

import torch
from PIL import Image
from torch import Tensor

from rtd_plugin.clip.tower import TextTower
from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation.image_files import MAX_PIXELS, decode_image, turn_upright
from rtd_plugin.search.galleries import SearchedGallery
from rtd_plugin.search.gallery_store import Match
from rtd_plugin.search.searcher import Searcher

THUMBNAIL, VIEW = 320, 1600  # pixels of the longer side
LOSSLESS_UP_TO = 128  # pixels: JPEG blurs small drawings
KEPT_THUMBNAILS = 2000


@dataclass(frozen=True)
class Limits:
    """What one client may ask for.

    Attributes:
        bytes: of an image.
        pixels: of an image.
        seconds: from a request's first byte to its answer.
        waiting: queries that are in work or wait; more are refused.
    """

    bytes: int = 10_000_000
    pixels: int = 40_000_000
    seconds: float = 30
    waiting: int = 128


@dataclass(frozen=True)
class Encoder:
    """A text encoder that queries are answered with.

    Attributes:
        name: short, different from the others'.
        is_tuned: whether it is not the pre-trained one.
        tower: the encoder.
    """

    name: str
    is_tuned: bool
    tower: TextTower


@dataclass(frozen=True)
class Start:
    """A query that the page proposes: an image of the gallery, and perhaps a condition."""

    image: str
    text: str = ""


@dataclass(frozen=True, eq=False)
class ComposedQuery:
    """A query whose image has been read.

    Attributes:
        pixels: (3, H, W) of the reference image, prepared for the image tower.
        text: the condition.
        name: of the reference in the gallery, which is left out of the results; None if it is not from there.
        k: how many images to find; 0 for the features alone.
        where: a condition on an index's columns, in SQL.
    """

    pixels: Tensor
    text: str
    name: str | None = None
    k: int = 0
    where: str | None = None


@dataclass(frozen=True)
class Answer:
    """The answer to a query, for each text encoder in their order.

    Attributes:
        features: (E, D) of the composed query, normalised.
        matches: the best images; empty if none were asked for.
    """

    features: Tensor
    matches: Sequence[Sequence[Match]] = ()


class UnknownImage(RTDError):
    """An image that is not in the gallery."""


class Service:
    """Answers queries about one gallery; its methods may be called from any thread, `answer` from one at a time.

    Args:
        searcher: what encodes queries.
        gallery: what is searched.
        encoders: the text encoders, the pre-trained one first.
        method: the method and the backbone, for readers.
        remarks: sentences for readers.
        starts: queries that the page proposes.
    """

    def __init__(
        self,
        searcher: Searcher,
        gallery: SearchedGallery,
        encoders: Sequence[Encoder],
        method: str,
        remarks: Sequence[str] = (),
        starts: Sequence[Start] = (),
    ):
        self.searcher = searcher
        self.gallery = gallery
        self.encoders = encoders
        self.method = method
        self.remarks = remarks
        self.starts = starts
        self.size = len(gallery)
        self.show_thumbnail = lru_cache(KEPT_THUMBNAILS)(lambda name: self.show_image(name, THUMBNAIL))

    def read_upload(self, file: BinaryIO, limits: Limits) -> Tensor:
        """Return the prepared pixels of an image that a client sent.

        Raises:
            OversizedImage: it has too many pixels.
            RTDError: it is broken, or of another format.
        """
        max_pixels = min(limits.pixels, MAX_PIXELS)
        return self.searcher.images.prepare(lambda: turn_upright(decode_image("the image", file, max_pixels)))

    def read_image(self, name: str) -> Tensor:
        """Return the prepared pixels of an image of the gallery.

        Raises:
            UnknownImage: there is no such image.
            RTDError: it cannot be read.
        """
        return self.searcher.images.prepare(lambda: self._find_image(name))

    def show_image(self, name: str, side: int) -> tuple[bytes, str]:
        """Return an image of the gallery as a new file of at most `side` pixels, and its media type.

        Raises:
            UnknownImage: there is no such image.
            RTDError: it cannot be read.
        """
        image = self._find_image(name).convert("RGB")
        image.thumbnail((side, side))
        form = "png" if max(image.size) <= LOSSLESS_UP_TO else "jpeg"
        file = BytesIO()
        image.save(file, form, quality=85)
        return file.getvalue(), f"image/{form}"

    def answer(self, queries: Sequence[ComposedQuery]) -> list[Answer | Exception]:
        """Answer queries together, each with its answer or what is wrong with it."""
        pixels = torch.stack([query.pixels for query in queries])
        images = self.searcher.images
        features = torch.stack(
            self.searcher.compose_with(
                [encoder.tower for encoder in self.encoders],
                images.encode_pixels(pixels),
                [query.text for query in queries],
                lambda rows: images.encode_pixel_patches(pixels[list(rows)]),
            ),
            dim=1,
        )  # (Q, E, D)
        answers: list[Answer | Exception] = [Answer(each) for each in features]
        for where in {query.where for query in queries if query.k}:
            rows = [row for row, query in enumerate(queries) if query.k and query.where == where]
            try:
                found = self._search(features[rows], [queries[row] for row in rows], where)
            except RTDError as error:  # the condition on columns is wrong
                answers = [error if row in rows else each for row, each in enumerate(answers)]
                continue
            for row, matches in zip(rows, found, strict=True):
                answers[row] = Answer(features[row], matches)
        return answers

    def _search(self, features: Tensor, queries: Sequence[ComposedQuery], where: str | None) -> list[list[list[Match]]]:
        """Return the matches of queries (Q, E, D) by query and encoder."""
        encoders = features.shape[1]
        names = [query.name for query in queries for _ in range(encoders)]
        found = self.gallery.search(features.flatten(0, 1), max(query.k for query in queries), names, where)
        return [
            [matches[: query.k] for matches in found[row * encoders : (row + 1) * encoders]]
            for row, query in enumerate(queries)
        ]

    def _find_image(self, name: str) -> Image.Image:
        if name not in self.gallery:
            raise UnknownImage(f"{name}: no image of this gallery")
        return self.gallery.image(name)

"""The base class of galleries on disk, which a plugin may bring (hook `rtd_gallery_store`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rtd_plugin.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from rtd_plugin.evaluation.image_features import ImageFeatures


@dataclass(frozen=True)
class Match:
    """An image in the results of a search.

    Attributes:
        image: its name: its path in the folder.
        score: cosine similarity with the query, -1 to 1.
        columns: the image's values in the other columns of the index.
    """

    image: str
    score: float
    columns: Mapping[str, Any] = field(default_factory=dict)


class GalleryStore(ABC):
    """A gallery on disk: a table of images with features, which can be searched.

    A row has `image` (its name, unique), `stamp` (changes when the image does), `vector` (D float32, normalised), and
    the user's own columns. Each call of `add` and `remove` is atomic, even if the process is killed.

    Attributes:
        is_approximate: whether `search` may miss images unless `exact` is set.
    """

    is_approximate: bool = False

    @abstractmethod
    def read_settings(self) -> Mapping[str, Any] | None:
        """Return what `create` was given; None if there is no gallery yet."""

    @abstractmethod
    def create(self, schema: pa.Schema, settings: Mapping[str, Any]) -> None:
        """Make an empty gallery.

        Args:
            schema: of the rows.
            settings: JSON values to keep.

        Raises:
            RTDError: the path holds something else, or cannot be written.
        """

    @abstractmethod
    def read_rows(self, columns: Sequence[str], images: Sequence[str] | None = None) -> pa.Table:
        """Return columns of all rows, or of those of some images."""

    @abstractmethod
    def add(self, rows: pa.Table) -> None:
        """Add rows of new images."""

    @abstractmethod
    def remove(self, images: Sequence[str]) -> None:
        """Remove the rows of images."""

    @abstractmethod
    def search(self, query: np.ndarray, k: int, where: str | None, exact: bool) -> list[Match]:
        """Return the k best images for a normalised query (D,), best first.

        Args:
            where: a condition on columns in SQL; None for all rows.
            exact: compare with every row, also if there is an approximate index.

        Raises:
            UsageError: the condition is wrong, or the store supports none.
        """

    @abstractmethod
    def finish(self, approximate: bool) -> None:
        """Prepare searching after a change.

        Args:
            approximate: make an approximate index, if the store has one.
        """


def check_tower(settings: Mapping[str, Any], images: ImageFeatures) -> None:
    """Check that an index was built with an image tower.

    Raises:
        UsageError: it was built with another, or with another preprocessing.
    """
    if settings.get("tower") != images.digest:
        raise UsageError(
            "the index was built with another image tower or preprocessing: build a new one with another --output"
        )

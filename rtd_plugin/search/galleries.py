"""The galleries that a searcher searches: a folder in memory, or an index."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from rtd_plugin.errors import UsageError
from rtd_plugin.evaluation.benchmark import Benchmark
from rtd_plugin.evaluation.image_features import ImageFeatures, name_images
from rtd_plugin.evaluation.ranking import open_gallery
from rtd_plugin.progress import Advance, ignore_progress
from rtd_plugin.search.gallery_store import GalleryStore, Match, check_tower
from rtd_plugin.search.image_folder import ImageFolder


class SearchedGallery(ABC):
    """What a searcher searches.

    Attributes:
        title: a name for readers.
        columns: what else it has of each image, to filter by.
    """

    title: str
    columns: Sequence[str] = ()

    @abstractmethod
    def __len__(self) -> int:
        """Return how many images there are."""

    @abstractmethod
    def __contains__(self, name: str) -> bool:
        """Return whether an image is in the gallery."""

    @abstractmethod
    def sample_names(self, count: int) -> list[str]:
        """Return the names of up to `count` images from all over the gallery, always the same."""

    @abstractmethod
    def image(self, name: str) -> Image.Image:
        """Read an image of the gallery.

        Raises:
            RTDError: it cannot be read.
        """

    def find_name(self, file: Path) -> str | None:
        """Return the name of an image file in this gallery; None if it lies elsewhere."""
        return None

    @abstractmethod
    def search(
        self, queries: Tensor, k: int, excluded: Sequence[str | None], where: str | None = None
    ) -> list[list[Match]]:
        """Return the best images of each query, best first.

        Args:
            queries: (Q, D) normalised features.
            k: how many images, or all if the gallery has fewer.
            excluded: the name of one image for each query that is left out; None for none.
            where: a condition on an index's columns, in SQL.

        Raises:
            UsageError: the condition is wrong, or the gallery has no columns.
        """


class MemoryGallery(SearchedGallery):
    """The images of a folder, or of another benchmark, with their features in memory, ranked exactly.

    Args:
        source: of the images.
        images: encodes them, but for those that its cache has.
        advance: called while it does.

    Attributes:
        unreadable: why images were left out, by name.

    Raises:
        RTDError: there are no images, or some cannot be read and must not be skipped.
    """

    def __init__(self, source: Benchmark, images: ImageFeatures, advance: Advance = ignore_progress):
        self.title = source.title()
        self._source = source
        self._device = images.device
        features, self.unreadable = images.encode_readable(source, source.gallery(), advance)
        self.names = [name for name in source.gallery() if name not in self.unreadable]
        self._distinct_names = frozenset(self.names)
        self._gallery = open_gallery(features, len(self.names), self._device)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: str) -> bool:
        return name in self._distinct_names

    def sample_names(self, count: int) -> list[str]:
        return _sample(self.names, count)

    def image(self, name: str) -> Image.Image:
        return self._source.image(name)

    def remarks(self) -> list[str]:
        """Return what readers of the results must know: images that were left out or turned."""
        remarks = list(self._source.remarks())
        if self.unreadable:
            name, reason = next(iter(self.unreadable.items()))
            total = len(self.names) + len(self.unreadable)
            left_out = f"{len(self.unreadable)} of {total} images cannot be read and are left out"
            remarks.insert(0, f"{left_out}: {name_images(self.unreadable)} ({name}: {reason})")
        return remarks

    def find_name(self, file: Path) -> str | None:
        return self._source.find_name(file) if isinstance(self._source, ImageFolder) else None

    def search(
        self, queries: Tensor, k: int, excluded: Sequence[str | None], where: str | None = None
    ) -> list[list[Match]]:
        if where is not None:
            raise UsageError("where: a folder has no columns: build an index with `rtd-plugin index --columns`")
        no_targets: Sequence[Sequence[int]] = [()] * len(queries)
        rankings = self._gallery.rank(queries.to(self._device), no_targets, depth=k + 1)
        matches_by_query: list[list[Match]] = []
        for top, scores, name in zip(rankings.top.tolist(), rankings.scores.tolist(), excluded, strict=True):
            matches = (Match(self.names[index], score) for index, score in zip(top, scores, strict=True))
            matches_by_query.append([match for match in matches if match.image != name][:k])
        return matches_by_query


class IndexGallery(SearchedGallery):
    """The images of an index.

    Args:
        store: the index.
        images: the image tower that it has to be built with.
        image_roots: folders that links in its folder may lead to.

    Raises:
        UsageError: it was built with another.
    """

    def __init__(self, store: GalleryStore, images: ImageFeatures, image_roots: Sequence[Path] = ()):
        settings = store.read_settings() or {}
        check_tower(settings, images)
        self.store = store
        self._folder = ImageFolder(data=Path(settings["folder"]), image_roots=tuple(image_roots))
        self.title = self._folder.title()
        self.columns = list(settings["columns"])

    def __len__(self) -> int:
        return len(self.store.read_rows(["image"]))

    def __contains__(self, name: str) -> bool:
        return len(self.store.read_rows(["image"], [name])) > 0

    def sample_names(self, count: int) -> list[str]:
        return _sample(sorted(self.store.read_rows(["image"])["image"].to_pylist()), count)

    def image(self, name: str) -> Image.Image:
        return self._folder.image(name)

    def find_name(self, file: Path) -> str | None:
        return self._folder.find_name(file)

    def search(
        self, queries: Tensor, k: int, excluded: Sequence[str | None], where: str | None = None
    ) -> list[list[Match]]:
        matches_by_query = [self.store.search(query.cpu().numpy(), k + 1, where, exact=False) for query in queries]
        return [
            [match for match in matches if match.image != name][:k]
            for matches, name in zip(matches_by_query, excluded, strict=True)
        ]


def _sample(names: Sequence[str], count: int) -> list[str]:
    step = max(1, len(names) // count)
    return list(names[::step][:count])

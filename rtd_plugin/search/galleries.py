"""The gallery that a searcher searches, in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from rtd_plugin.evaluation.image_features import ImageFeatures, name_images
from rtd_plugin.evaluation.ranking import Gallery
from rtd_plugin.progress import Advance, ignore_progress
from rtd_plugin.search.image_folder import ImageFolder


@dataclass(frozen=True)
class Match:
    """An image that was found.

    Attributes:
        image: its name: its path in the folder.
        score: cosine similarity with the query, -1 to 1.
        columns: what else the index has of it.
    """

    image: str
    score: float
    columns: Mapping[str, Any] = field(default_factory=dict)


class FolderGallery:
    """The images of a folder, ranked exactly.

    Args:
        folder: of the images.
        images: encodes them, but for those that its cache has.
        advance: called while it does.

    Attributes:
        unreadable: why images were left out, by name.

    Raises:
        RTDError: there are no images, or some cannot be read and are not to be skipped.
    """

    def __init__(self, folder: ImageFolder, images: ImageFeatures, advance: Advance = ignore_progress):
        self.folder = folder
        self._device = images.device
        features, self.unreadable = images.encode_readable(folder, folder.gallery(), advance)
        self.names = [name for name in folder.gallery() if name not in self.unreadable]
        self._gallery = Gallery(F.normalize(features, dim=-1).to(self._device))

    def __len__(self) -> int:
        return len(self.names)

    def remarks(self) -> list[str]:
        """Return what readers of the results must know: images that were left out or turned."""
        remarks = list(self.folder.remarks())
        if self.unreadable:
            name, reason = next(iter(self.unreadable.items()))
            total = len(self.names) + len(self.unreadable)
            left_out = f"{len(self.unreadable)} of {total} images cannot be read and are left out"
            remarks.insert(0, f"{left_out}: {name_images(self.unreadable)} ({name}: {reason})")
        return remarks

    def find_name(self, file: Path) -> str | None:
        """Return the name of an image file in this gallery; None if it lies elsewhere."""
        return self.folder.find_name(file)

    def search(self, queries: Tensor, k: int, excluded: Sequence[str | None]) -> list[list[Match]]:
        """Return the best images of each query, best first.

        Args:
            queries: (Q, D) normalised features.
            k: how many images, or all if the gallery has fewer.
            excluded: the name of one image for each query that is left out; None for none.
        """
        no_targets: Sequence[Sequence[int]] = [()] * len(queries)
        rankings = self._gallery.rank(queries.to(self._device), no_targets, depth=k + 1)
        found: list[list[Match]] = []
        for top, scores, name in zip(rankings.top.tolist(), rankings.scores.tolist(), excluded, strict=True):
            matches = (Match(self.names[index], score) for index, score in zip(top, scores, strict=True))
            found.append([match for match in matches if match.image != name][:k])
        return found

"""FashionIQ: A New Dataset Towards Retrieving Images by Natural Language Feedback (Wu et al., CVPR 2021)."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from rtd_plugin.evaluation.benchmark import Query
from rtd_plugin.evaluation.benchmarks.files import FileBenchmark, Record

CATEGORIES = ("dress", "shirt", "toptee")


class _Pair(Record):
    candidate: str
    target: str
    captions: list[str] = Field(min_length=2, max_length=2)


class FashionIQ(FileBenchmark):
    """Clothes in three categories with separate galleries; each query has two conditions.

    `data` has `captions/cap.CATEGORY.val.json` (or `json/…`), `image_splits/split.CATEGORY.val.json`, and
    `images/ID.jpg` (or `.png`). The reference stays in the ranking. The metrics of all queries are
    the means of the categories' metrics.

    Attributes:
        split: "val".
    """

    name: ClassVar[str] = "fashioniq"
    home: ClassVar[str] = "https://github.com/XiaoxiaoGuo/fashion-iq (images as its README says)"
    averages_groups: ClassVar[bool] = True
    recall_at: ClassVar[tuple[int, ...]] = (10, 50)
    published: ClassVar[Mapping[str, tuple[int, int]]] = {
        "dress": (2017, 3817),
        "shirt": (2038, 6346),
        "toptee": (1961, 5373),
    }

    split: Literal["val"] = "val"

    @cached_property
    def _galleries(self) -> dict[str, tuple[str, ...]]:
        file = f"split.{{}}.{self.split}.json"
        return {
            category: tuple(self.read(self.data / "image_splits" / file.format(category), list[str], category))
            for category in CATEGORIES
        }

    @cached_property
    def _pairs(self) -> dict[str, list[_Pair]]:
        folder = "json" if (self.data / "json").is_dir() and not (self.data / "captions").is_dir() else "captions"
        file = f"cap.{{}}.{self.split}.json"
        return {
            category: self.read(self.data / folder / file.format(category), list[_Pair], category)
            for category in CATEGORIES
        }

    @cached_property
    def _suffix(self) -> str:
        first = self._galleries[CATEGORIES[0]][0]
        return ".png" if (self.data / "images" / f"{first}.png").is_file() else ".jpg"

    def queries(self) -> Sequence[Query]:
        return [
            Query(
                reference=pair.candidate,
                conditions=tuple(pair.captions),
                targets=(pair.target,),
                candidates=self._galleries[category],
                groups=(category,),
            )
            for category, pairs in self._pairs.items()
            for pair in pairs
        ]

    def gallery(self) -> Sequence[str]:
        """Return the images of all categories; some are in two."""
        return list(dict.fromkeys(name for names in self._galleries.values() for name in names))

    def path(self, name: str) -> Path:
        return self.data / "images" / f"{name}{self._suffix}"

    def remarks(self) -> Sequence[str]:
        return [
            remark
            for category, names in self._galleries.items()
            for remark in self.compare_counts(category, len(self._pairs[category]), len(names))
        ]

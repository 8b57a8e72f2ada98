"""FashionIQ: A New Dataset Towards Retrieving Images by Natural Language Feedback (Wu et al., CVPR 2021)."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, get_args

from pydantic import Field

from rtd_plugin.evaluation.benchmark import Query
from rtd_plugin.evaluation.benchmarks.files import FileBenchmark, Record
from rtd_plugin.evaluation.image_files import image_suffixes
from rtd_plugin.paths import RecipePath

Category = Literal["dress", "shirt", "toptee"]


class _Pair(Record):
    candidate: str
    target: str
    captions: list[str] = Field(min_length=2, max_length=2)


class FashionIQ(FileBenchmark):
    """Clothes in three categories with separate galleries; each query has two conditions.

    `data` has `captions/cap.CATEGORY.val.json` (or `json/…`), `image_splits/split.CATEGORY.val.json`, and
    `images/ID.jpg` (or another suffix of an image, each image its own). The reference stays in the ranking. The
    metrics of all queries are the means of the categories' metrics.

    Attributes:
        split: "val".
        categories: the categories that are evaluated.
        protocol: "original", where a category's gallery is its image split, or "val", where it is only the images of
            its queries, as in some papers.
        images: folder of the images, if not in `data`.
    """

    name: ClassVar[str] = "fashioniq"
    home: ClassVar[str] = "https://github.com/XiaoxiaoGuo/fashion-iq (images as its README says)"
    averages_groups: ClassVar[bool] = True
    recall_at: ClassVar[tuple[int, ...]] = (10, 50)
    image_folders: ClassVar[tuple[str, ...]] = ("images",)
    published: ClassVar[Mapping[str, tuple[int, int]]] = {
        "dress": (2017, 3817),
        "shirt": (2038, 6346),
        "toptee": (1961, 5373),
    }

    split: Literal["val"] = "val"
    categories: tuple[Category, ...] = Field(get_args(Category), min_length=1)
    protocol: Literal["original", "val"] = "original"
    images: RecipePath | None = None

    @cached_property
    def _galleries(self) -> dict[str, tuple[str, ...]]:
        file = f"split.{{}}.{self.split}.json"
        galleries: dict[str, tuple[str, ...]] = {}
        for category, pairs in self._pairs.items():
            names: list[str] = self.read(self.data / "image_splits" / file.format(category), list[str], category)
            if self.protocol == "val":
                queried = {name for pair in pairs for name in (pair.candidate, pair.target)}
                names = [name for name in names if name in queried]
            galleries[category] = tuple(names)
        return galleries

    @cached_property
    def _pairs(self) -> dict[str, list[_Pair]]:
        folder = "json" if (self.data / "json").is_dir() and not (self.data / "captions").is_dir() else "captions"
        file = f"cap.{{}}.{self.split}.json"
        return {
            category: self.read(self.data / folder / file.format(category), list[_Pair], category)
            for category in self.categories
        }

    @cached_property
    def _files(self) -> dict[str, str]:
        """The file of each image: of several with different suffixes, the first by name."""
        files: dict[str, str] = {}
        with suppress(OSError):
            for file in sorted(self._folder.iterdir()):
                if file.suffix.lower() in image_suffixes():
                    files.setdefault(file.stem, file.name)
        return files

    @property
    def _folder(self) -> Path:
        return self.images or self.data / "images"

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
        return self._folder / self._files.get(name, f"{name}.jpg")

    def counts(self) -> Mapping[str, tuple[int, int]]:
        return {category: (len(pairs), len(self._galleries[category])) for category, pairs in self._pairs.items()}

    def remarks(self) -> Sequence[str]:
        if self.protocol == "original":
            return super().remarks()
        sizes = ", ".join(f"{category} {images}" for category, (_, images) in self.counts().items())
        return [
            f"the gallery of each category is only the images of its queries ({sizes}): comparable with papers that "
            "use this protocol, not with others"
        ]

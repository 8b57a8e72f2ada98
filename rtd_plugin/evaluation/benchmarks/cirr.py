"""CIRR: Image Retrieval on Real-life Images with Pre-trained Vision-and-Language Models (Liu et al., ICCV 2021)."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation.benchmark import Query, RankedNames
from rtd_plugin.evaluation.benchmarks.files import FileBenchmark, Id, Record, check_submission, find_file
from rtd_plugin.paths import RecipePath

RECALL, SUBSET = 50, 3  # images of each query in the submissions


class _Group(Record):
    members: list[str]


class _Pair(Record):
    pairid: Id
    reference: str
    caption: str
    img_set: _Group
    target_hard: str | None = None


class CIRR(FileBenchmark):
    """Photos of everyday life, in groups of six similar ones.

    `data` has `cirr/captions/cap.rc2.SPLIT.json`, `cirr/image_splits/split.rc2.SPLIT.json`, and the images at the paths
    in the latter, or at these paths in `img_raw/`, or without the paths' folders. The reference is left out of each
    ranking; subset recall is among the other five of its group.

    Attributes:
        split: "val", or "test1", whose targets are secret (server: https://cirr.cecs.anu.edu.au).
        images: folder of the images, if not in `data`.
    """

    name: ClassVar[str] = "cirr"
    home: ClassVar[str] = "https://github.com/Cuberick-Orion/CIRR (branch cirr_dataset; images as its README says)"
    excludes_reference: ClassVar[bool] = True
    recall_at: ClassVar[tuple[int, ...]] = (1, 5, 10, 50)
    subset_recall_at: ClassVar[tuple[int, ...]] = (1, 2, 3)
    image_folders: ClassVar[tuple[str, ...]] = ("images",)
    published: ClassVar[Mapping[str, tuple[int, int]]] = {"val": (4181, 2297), "test1": (4148, 2315)}

    split: Literal["val", "test1"] = "val"
    images: RecipePath | None = None

    @cached_property
    def _paths(self) -> dict[str, str]:
        return self.read(self._folder / "image_splits" / f"split.rc2.{self.split}.json", dict[str, str], self.split)

    @cached_property
    def _pairs(self) -> list[_Pair]:
        file = self._folder / "captions" / f"cap.rc2.{self.split}.json"
        pairs: list[_Pair] = self.read(file, list[_Pair], self.split)
        if self.split == "val" and any(pair.target_hard is None for pair in pairs):
            raise RTDError(f"{file}: not the captions of cirr val: entries have no target_hard")
        return pairs

    @property
    def _folder(self) -> Path:
        return self.data / "cirr" if (self.data / "cirr").is_dir() else self.data

    def queries(self) -> Sequence[Query]:
        return [
            Query(
                reference=pair.reference,
                conditions=(pair.caption,),
                targets=(pair.target_hard,) if pair.target_hard is not None and self.split == "val" else (),
                subset=tuple(name for name in pair.img_set.members if name != pair.reference),
                id=str(pair.pairid),
            )
            for pair in self._pairs
        ]

    def gallery(self) -> Sequence[str]:
        return list(self._paths)

    def path(self, name: str) -> Path:
        if name not in self._paths:
            raise FileNotFoundError(f"no image with this name in split.rc2.{self.split}.json")
        path = Path(self._paths[name])
        folders = [self.images] if self.images else [self.data, self.data / "img_raw"]
        return find_file([folder / each for folder in folders for each in (path, path.name)])

    def counts(self) -> Mapping[str, tuple[int, int]]:
        return {self.split: (len(self._pairs), len(self._paths))}

    def submissions(self, rankings: Sequence[RankedNames]) -> Mapping[str, Any]:
        """Return `recall.json` and `recall_subset.json`, in the format of the test server."""
        recall = {each.query.id: each.names[:RECALL] for each in rankings}
        subset = {each.query.id: each.subset[:SUBSET] for each in rankings}
        check_submission(recall, len(rankings), RECALL, "CIRR")
        check_submission(subset, len(rankings), SUBSET, "CIRR")
        return {
            f"{metric}.json": {"version": "rc2", "metric": metric, **ranked}
            for metric, ranked in {"recall": recall, "recall_subset": subset}.items()
        }

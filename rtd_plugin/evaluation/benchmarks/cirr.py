"""CIRR: Image Retrieval on Real-life Images with Pre-trained Vision-and-Language Models (Liu et al., ICCV 2021)."""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation.benchmark import Query, RankedNames
from rtd_plugin.evaluation.benchmarks.files import FileBenchmark, Record, check_submission

RECALL, SUBSET = 50, 3  # images of each query in the submissions
LARGEST = 5_000_000  # bytes that the server accepts


class _Group(Record):
    members: list[str]


class _Pair(Record):
    pairid: int
    reference: str
    caption: str
    img_set: _Group
    target_hard: str | None = None


class CIRR(FileBenchmark):
    """Photos of everyday life, in groups of six similar ones.

    `data` has `cirr/captions/cap.rc2.SPLIT.json`, `cirr/image_splits/split.rc2.SPLIT.json`, and the images at the paths
    in the latter. The reference is left out of each ranking; subset recall is among the other five of its group.

    Attributes:
        split: "val", or "test1", whose targets are secret (server: https://cirr.cecs.anu.edu.au).
    """

    name: ClassVar[str] = "cirr"
    home: ClassVar[str] = "https://github.com/Cuberick-Orion/CIRR (branch cirr_dataset; images as its README says)"
    excludes_reference: ClassVar[bool] = True
    recall_at: ClassVar[tuple[int, ...]] = (1, 5, 10, 50)
    subset_recall_at: ClassVar[tuple[int, ...]] = (1, 2, 3)
    published: ClassVar[Mapping[str, tuple[int, int]]] = {"val": (4181, 2297), "test1": (4148, 2315)}

    split: Literal["val", "test1"] = "val"

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
        return self.data / self._paths[name]

    def remarks(self) -> Sequence[str]:
        return self.compare_counts(self.split, len(self._pairs), len(self._paths))

    def submissions(self, rankings: Sequence[RankedNames]) -> Mapping[str, Any]:
        """Return `recall.json` and `recall_subset.json`, in the format of the test server."""
        files = {}
        for metric, length in {"recall": RECALL, "recall_subset": SUBSET}.items():
            ranked = {each.query.id: (each.names if metric == "recall" else each.subset)[:length] for each in rankings}
            ids = [each.query.id for each in rankings]
            check_submission(ranked, ids, set(self._paths), length, "CIRR")
            if any(each.query.reference in ranked[each.query.id] for each in rankings):
                raise RTDError(
                    "the server of CIRR would refuse a ranking with the reference image; nothing was written"
                )
            files[f"{metric}.json"] = {"version": "rc2", "metric": metric, **ranked}
            if (size := len(json.dumps(files[f"{metric}.json"], separators=(",", ":")))) > LARGEST:
                raise RTDError(f"the server of CIRR accepts {LARGEST} bytes, not {size}; nothing was written")
        return files

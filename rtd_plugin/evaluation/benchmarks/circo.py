"""CIRCO: Zero-Shot Composed Image Retrieval with Textual Inversion (Baldrati et al., ICCV 2023)."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation.benchmark import Query, RankedNames
from rtd_plugin.evaluation.benchmarks.files import FileBenchmark, Record, check_submission

COCO = "COCO2017_unlabeled"
RANKED = 50  # images of each query in the submission


class _Query(Record):
    id: int
    reference_img_id: int
    relative_caption: str
    target_img_id: int | None = None
    gt_img_ids: tuple[int, ...] = ()
    semantic_aspects: tuple[str, ...] = ()


class _Image(Record):
    id: int
    file_name: str


class _Images(Record):
    images: list[_Image]


class CIRCO(FileBenchmark):
    """Queries with several targets among all 123,403 unlabelled images of COCO 2017.

    `data` has `annotations/SPLIT.json`, `COCO2017_unlabeled/annotations/image_info_unlabeled2017.json`, and images in
    `COCO2017_unlabeled/unlabeled2017/`. The reference stays in the ranking. Metrics are also computed by
    semantic aspect.

    Attributes:
        split: "val", or "test", whose targets are secret (server: https://circo.micc.unifi.it).
    """

    name: ClassVar[str] = "circo"
    home: ClassVar[str] = "https://github.com/miccunifi/CIRCO and https://cocodataset.org (2017 Unlabeled images)"
    recall_at: ClassVar[tuple[int, ...]] = (5, 10, 25, 50)
    map_at: ClassVar[tuple[int, ...]] = (5, 10, 25, 50)
    published: ClassVar[Mapping[str, tuple[int, int]]] = {"val": (220, 123403), "test": (800, 123403)}

    split: Literal["val", "test"] = "val"

    @cached_property
    def _files(self) -> dict[str, str]:
        file = self.data / COCO / "annotations" / "image_info_unlabeled2017.json"
        content: _Images = self.read(file, _Images, self.split)
        return {str(image.id): image.file_name for image in content.images}

    @cached_property
    def _queries(self) -> list[_Query]:
        file = self.data / "annotations" / f"{self.split}.json"
        queries: list[_Query] = self.read(file, list[_Query], self.split)
        if self.split == "val" and any(query.target_img_id not in query.gt_img_ids for query in queries):
            raise RTDError(f"{file}: not the annotations of circo val: a query lacks target_img_id or gt_img_ids")
        return queries

    def queries(self) -> Sequence[Query]:
        return [
            Query(
                reference=str(query.reference_img_id),
                conditions=(query.relative_caption,),
                targets=tuple(dict.fromkeys(map(str, (query.target_img_id, *query.gt_img_ids))))
                if self.split == "val"
                else (),
                groups=query.semantic_aspects if self.split == "val" else (),
                id=str(query.id),
            )
            for query in self._queries
        ]

    def gallery(self) -> Sequence[str]:
        return list(self._files)

    def path(self, name: str) -> Path:
        if name not in self._files:
            raise FileNotFoundError("no image with this id in image_info_unlabeled2017.json")
        return self.data / COCO / "unlabeled2017" / self._files[name]

    def remarks(self) -> Sequence[str]:
        return self.compare_counts(self.split, len(self._queries), len(self._files))

    def submissions(self, rankings: Sequence[RankedNames]) -> Mapping[str, Any]:
        """Return `circo.json`, in the format of the test server: ids of images, not names."""
        ranked = {each.query.id: [int(name) for name in each.names[:RANKED]] for each in rankings}
        ids = [each.query.id for each in rankings]
        return {"circo.json": check_submission(ranked, ids, set(map(int, self._files)), RANKED, "CIRCO")}

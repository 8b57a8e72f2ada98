"""CIRCO: Zero-Shot Composed Image Retrieval with Textual Inversion (Baldrati et al., ICCV 2023)."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation.benchmark import Query, RankedNames
from rtd_plugin.evaluation.benchmarks.files import FileBenchmark, Id, Record, check_submission, find_file
from rtd_plugin.paths import RecipePath

RANKED = 50  # images of each query in the submission


class _Query(Record):
    id: Id
    reference_img_id: Id
    relative_caption: str
    shared_concept: str = ""
    target_img_id: Id | None = None
    gt_img_ids: tuple[Id, ...] = ()
    semantic_aspects: tuple[str, ...] = ()


class _Image(Record):
    id: Id
    file_name: str


class _Images(Record):
    images: list[_Image]


class CIRCO(FileBenchmark):
    """Queries with several targets among all 123,403 unlabelled images of COCO 2017.

    `data` has `annotations/SPLIT.json`. The folder `COCO2017_unlabeled` in it, or `coco`, has
    `annotations/image_info_unlabeled2017.json` and the images, in `unlabeled2017/` or beside it. The reference stays in
    the ranking. Metrics are also computed by semantic aspect.

    Attributes:
        split: "val", or "test", whose targets are secret (server: https://circo.micc.unifi.it).
        coco: folder of COCO's images, if not in `data`.
        shared_concept: whether a condition names what the reference and the target share: "shows CONCEPT that CAPTION".
    """

    name: ClassVar[str] = "circo"
    home: ClassVar[str] = "https://github.com/miccunifi/CIRCO and https://cocodataset.org (2017 Unlabeled images)"
    recall_at: ClassVar[tuple[int, ...]] = (5, 10, 25, 50)
    map_at: ClassVar[tuple[int, ...]] = (5, 10, 25, 50)
    image_folders: ClassVar[tuple[str, ...]] = ("coco",)
    published: ClassVar[Mapping[str, tuple[int, int]]] = {"val": (220, 123403), "test": (800, 123403)}

    split: Literal["val", "test"] = "val"
    coco: RecipePath | None = None
    shared_concept: bool = False

    @cached_property
    def _files(self) -> dict[str, str]:
        file = self._coco / "annotations" / "image_info_unlabeled2017.json"
        content: _Images = self.read(file, _Images, self.split)
        return {str(image.id): image.file_name for image in content.images}

    @cached_property
    def _queries(self) -> list[_Query]:
        file = self.data / "annotations" / f"{self.split}.json"
        queries: list[_Query] = self.read(file, list[_Query], self.split)
        if self.split == "val" and any(query.target_img_id not in query.gt_img_ids for query in queries):
            raise RTDError(f"{file}: not the annotations of circo val: a query lacks target_img_id or gt_img_ids")
        if self.shared_concept and not all(query.shared_concept for query in queries):
            raise RTDError(f"{file}: a query has no shared_concept: leave out the option shared_concept")
        return queries

    @property
    def _coco(self) -> Path:
        return self.coco or self.data / "COCO2017_unlabeled"

    def queries(self) -> Sequence[Query]:
        is_known = self.split == "val"
        return [
            Query(
                reference=str(query.reference_img_id),
                conditions=(
                    f"shows {query.shared_concept} that {query.relative_caption}"
                    if self.shared_concept
                    else query.relative_caption,
                ),
                targets=tuple(dict.fromkeys(map(str, (query.target_img_id, *query.gt_img_ids)))) if is_known else (),
                groups=query.semantic_aspects if is_known else (),
                id=str(query.id),
            )
            for query in self._queries
        ]

    def gallery(self) -> Sequence[str]:
        return list(self._files)

    def path(self, name: str) -> Path:
        if name not in self._files:
            raise FileNotFoundError("no image with this id in image_info_unlabeled2017.json")
        return find_file([self._coco / "unlabeled2017" / self._files[name], self._coco / self._files[name]])

    def counts(self) -> Mapping[str, tuple[int, int]]:
        return {self.split: (len(self._queries), len(self._files))}

    def submissions(self, rankings: Sequence[RankedNames]) -> Mapping[str, Any]:
        """Return `circo.json`, in the format of the test server: ids of images, not names."""
        ranked = {each.query.id: [int(name) for name in each.names[:RANKED]] for each in rankings}
        check_submission(ranked, len(rankings), RANKED, "CIRCO")
        return {"circo.json": ranked}

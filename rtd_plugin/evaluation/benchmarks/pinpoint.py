"""PinPoint: composed image retrieval with explicit negatives and paraphrases (Mahadev et al., CVPR 2026)."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import ClassVar

from pydantic import TypeAdapter, ValidationError

from rtd_plugin.errors import RTDError, require_extra
from rtd_plugin.evaluation.benchmark import Query
from rtd_plugin.evaluation.benchmarks.files import FileBenchmark, Record, find_file
from rtd_plugin.paths import RecipePath
from rtd_plugin.printable import count_noun
from rtd_plugin.regular_files import read_bytes
from rtd_plugin.validation import describe_error

QUERIES_FILE, GALLERY_FILE = "pinpoint_licensed.parquet", "index_signatures.txt"
NO_IMAGE = (None, "", "None")


class _Query(Record):
    query_id: str
    query_image_signature: str
    query_image_signature2: str | None = None
    instruction: str
    positive_candidates: tuple[str | None, ...]
    negative_candidates: tuple[str | None, ...] = ()
    query_category: str = ""


class PinPoint(FileBenchmark):
    """Queries in about six wordings, with several targets and explicit wrong answers, among 109,600 images.

    `data` has `pinpoint_licensed.parquet` and `index_signatures.txt` of the release, and the images as `SIGNATURE.jpg`
    in `images/` or in itself. The reference stays in the ranking. As in the released evaluation, queries of the same
    image are wordings of one request. Metrics are also computed by category.

    Queries of two images are left out: the methods compose one image with a condition.

    Attributes:
        images: the folder of the images, if they are elsewhere.
    """

    name: ClassVar[str] = "pinpoint"
    home: ClassVar[str] = "https://github.com/pinterest/pinpoint-dataset"
    recall_of_any_target: ClassVar[bool] = True
    recall_at: ClassVar[tuple[int, ...]] = (1, 5, 10, 50)
    map_at: ClassVar[tuple[int, ...]] = (5, 10, 50)
    wrong_at: ClassVar[tuple[int, ...]] = (1, 5, 10)
    spread_at: ClassVar[tuple[int, ...]] = (10,)
    image_folders: ClassVar[tuple[str, ...]] = ("images",)
    published: ClassVar[Mapping[str, tuple[int, int]]] = {"of one image": (6629, 109600)}

    images: RecipePath | None = None

    @cached_property
    def _queries(self) -> list[_Query]:
        with require_extra("train", "the benchmark pinpoint"):
            import pyarrow as pa
            from pyarrow import parquet
        try:
            rows = parquet.read_table(BytesIO(self._read_file(QUERIES_FILE))).to_pylist()
            return TypeAdapter(list[_Query]).validate_python(rows)
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise RTDError(f"{self.data / QUERIES_FILE}: not a Parquet file ({error})") from error
        except ValidationError as error:
            problem = describe_error(error)
            raise RTDError(
                f"{self.data / QUERIES_FILE}: not the queries of pinpoint: {problem.key}: {problem.sentence}; "
                f"the files are from {self.home}"
            ) from error

    @cached_property
    def _gallery(self) -> dict[str, None]:
        return dict.fromkeys(self._read_file(GALLERY_FILE).decode("utf-8", "replace").split())

    def queries(self) -> Sequence[Query]:
        return [
            Query(
                reference=query.query_image_signature,
                conditions=(query.instruction,),
                targets=tuple(dict.fromkeys(filter(None, query.positive_candidates))),
                groups=(query.query_category,) if query.query_category else (),
                id=query.query_id,
                request=query.query_image_signature,
                wrong=tuple(dict.fromkeys(filter(None, query.negative_candidates))),
            )
            for query in self._queries
            if query.query_image_signature2 in NO_IMAGE
        ]

    def gallery(self) -> Sequence[str]:
        return list(self._gallery)

    def path(self, name: str) -> Path:
        if name not in self._gallery:
            raise FileNotFoundError(f"no image with this signature in {GALLERY_FILE}")
        return find_file([(self.images or self.data / "images") / f"{name}.jpg", self.data / f"{name}.jpg"])

    def counts(self) -> Mapping[str, tuple[int, int]]:
        return {"of one image": (len(self.queries()), len(self._gallery))}

    def remarks(self) -> Sequence[str]:
        two = len(self._queries) - len(self.queries())
        left_out = f"pinpoint: {count_noun(two, 'query')} of two images left out" if two else ""
        return list(filter(None, (left_out, *super().remarks())))

    def _read_file(self, name: str) -> bytes:
        path = self.data / name
        if not path.is_file():
            raise RTDError(f"pinpoint: {path} is missing; the files are from {self.source()}")
        try:
            return read_bytes(path)
        except OSError as error:
            raise RTDError(f"{path}: cannot be read ({error.strerror})") from error

"""A folder of images with a file of queries."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation.benchmark import Query
from rtd_plugin.evaluation.benchmarks.files import FileBenchmark
from rtd_plugin.evaluation.pictures import image_suffixes
from rtd_plugin.paths import RecipePath
from rtd_plugin.regular_files import read_text
from rtd_plugin.validation import describe_error

QUERY_FILES = ("queries.csv", "queries.jsonl")
SEPARATOR = ";"  # between several targets or groups in a cell


class _Query(BaseModel):
    """A line of the file of queries; in a CSV file, one cell holds several targets or groups."""

    model_config = ConfigDict(extra="forbid")

    reference: str = Field(min_length=1)
    condition: tuple[str, ...] = Field(min_length=1, max_length=2)
    target: tuple[str, ...] = Field(min_length=1)
    group: tuple[str, ...] = ()

    @field_validator("condition", mode="before")
    @classmethod
    def _wrap_string(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("target", "group", mode="before")
    @classmethod
    def _split_cell(cls, value: Any) -> Any:
        return tuple(filter(None, map(str.strip, value.split(SEPARATOR)))) if isinstance(value, str) else value


class Folder(FileBenchmark):
    """The images in a folder and its subfolders, and a file of queries.

    An image's name is its path in the folder. The file is CSV with a header, or JSON lines; each query has
    `reference`, `condition` and `target` (one or several), and may have `group`. The reference is left out of each
    ranking.

    Attributes:
        queries_file: by default `queries.csv` or `queries.jsonl` in the folder.
    """

    name: ClassVar[str] = "folder"
    home: ClassVar[str] = "you"
    excludes_reference: ClassVar[bool] = True
    recall_at: ClassVar[tuple[int, ...]] = (1, 5, 10, 50)
    map_at: ClassVar[tuple[int, ...]] = (5, 10)

    queries_file: RecipePath | None = None

    def queries(self) -> Sequence[Query]:
        file = self._find_file()
        queries = []
        for line, values in _read_lines(file):
            try:
                query = _Query.model_validate(values)
            except ValidationError as error:
                problem = describe_error(error)
                raise RTDError(
                    f"{file}, line {line}: {problem.key}: {problem.sentence}; a query has reference, condition, "
                    "target and perhaps group"
                ) from error
            for name in (query.reference, *query.target):
                if name not in self._names:
                    raise RTDError(f"{file}, line {line}: no image {name} in {self.data}")
            queries.append(
                Query(reference=query.reference, conditions=query.condition, targets=query.target, groups=query.group)
            )
        return queries

    def gallery(self) -> Sequence[str]:
        return list(self._names)

    def path(self, name: str) -> Path:
        return self.data / name

    @cached_property
    def _names(self) -> dict[str, None]:
        return dict.fromkeys(list_images(self.data))

    def _find_file(self) -> Path:
        if self.queries_file is not None:
            if not self.queries_file.is_file():
                raise RTDError(f"{self.queries_file}: no such file (queries_file)")
            return self.queries_file
        files = [self.data / name for name in QUERY_FILES if (self.data / name).is_file()]
        if len(files) != 1:
            present = "both" if files else "neither"
            raise RTDError(
                f"{self.data}: needs queries.csv or queries.jsonl, and has {present}; or set the option queries_file"
            )
        return files[0]


def list_images(folder: Path) -> list[str]:
    """Return the paths of all images in a folder and its subfolders, without hidden ones.

    Returns:
        Sorted paths relative to the folder, with forward slashes.

    Raises:
        RTDError: the folder is missing or has no images.
    """
    if not folder.is_dir():
        raise RTDError(f"{folder}: no such folder of images")
    suffixes = image_suffixes()
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    names = sorted(path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts))
    if not names:
        raise RTDError(f"{folder}: no image in this folder")
    return names


def _read_lines(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the entries of a CSV or JSON-lines file, each with its line number, without empty lines and cells."""
    try:
        text = read_text(file, "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RTDError(f"{file}: cannot be read as text in UTF-8 ({error})") from error
    if file.suffix.lower() == ".csv":
        reader = csv.DictReader(text.splitlines(keepends=True), restkey="more cells than the header has")
        for values in reader:
            yield reader.line_num, {key: value for key, value in values.items() if value not in (None, "")}
        return
    for line, entry in enumerate(text.split("\n"), start=1):
        if entry.strip():
            try:
                values = json.loads(entry)
            except ValueError as error:
                raise RTDError(f"{file}, line {line}: not JSON ({error})") from error
            if not isinstance(values, dict):
                raise RTDError(f"{file}, line {line}: not a JSON object")
            yield line, values

"""A gallery and queries of one's own."""

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

QUERY_FILES = ("queries.csv", "queries.jsonl")
SEPARATOR = ";"  # of several targets or groups in a cell


class _Query(BaseModel):
    """A line of the queries' file; in a CSV file, several targets or groups stand in one cell."""

    model_config = ConfigDict(extra="forbid")

    reference: str = Field(min_length=1)
    condition: tuple[str, ...] = Field(min_length=1, max_length=2)
    target: tuple[str, ...] = Field(min_length=1)
    group: tuple[str, ...] = ()

    @field_validator("condition", mode="before")
    @classmethod
    def _one_or_two(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("target", "group", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return tuple(filter(None, map(str.strip, value.split(SEPARATOR)))) if isinstance(value, str) else value


class Folder(FileBenchmark):
    """The images in a folder and below, and a file of queries.

    An image's name is its path in the folder. The file is CSV with a header, or JSON lines; each query has
    `reference`, `condition`, `target` (one or several) and may have a `group`. The reference is taken out of each
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
        file = self._file()
        found = []
        for line, values in _lines(file):
            try:
                query = _Query.model_validate(values)
            except ValidationError as error:
                problem = error.errors()[0]
                key = ".".join(map(str, problem["loc"]))
                raise RTDError(
                    f"{file}, line {line}: {key}: {problem['msg'][0].lower()}{problem['msg'][1:]}; a query has "
                    "reference, condition, target and perhaps group"
                ) from error
            for name in (query.reference, *query.target):
                if name not in self._names:
                    raise RTDError(f"{file}, line {line}: there is no image {name} in {self.data}")
            found.append(
                Query(reference=query.reference, conditions=query.condition, targets=query.target, groups=query.group)
            )
        return found

    def gallery(self) -> Sequence[str]:
        return list(self._names)

    def path(self, name: str) -> Path:
        return self.data / name

    @cached_property
    def _names(self) -> dict[str, None]:
        return dict.fromkeys(list_images(self.data))

    def _file(self) -> Path:
        if self.queries_file is not None:
            if not self.queries_file.is_file():
                raise RTDError(f"{self.queries_file}: no such file (queries_file)")
            return self.queries_file
        files = [self.data / name for name in QUERY_FILES if (self.data / name).is_file()]
        if len(files) != 1:
            found = "both" if files else "neither"
            raise RTDError(
                f"{self.data}: needs queries.csv or queries.jsonl, and has {found}; or set the option queries_file"
            )
        return files[0]


def list_images(folder: Path) -> list[str]:
    """Paths of all images in a folder and below, relative to it, with forward slashes, sorted; hidden ones left out.

    Raises:
        RTDError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise RTDError(f"{folder}: no such folder of images")
    suffixes = image_suffixes()
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    names = sorted(path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts))
    if not names:
        raise RTDError(f"{folder}: there is no image in this folder")
    return names


def _lines(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Entries of a CSV or JSON-lines file, each with its line number; empty lines and cells left out."""
    try:
        text = file.read_text(encoding="utf-8-sig")
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

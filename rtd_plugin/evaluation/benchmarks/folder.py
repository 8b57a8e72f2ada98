"""A folder of images with a file of queries."""

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator

from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation.benchmark import Query
from rtd_plugin.evaluation.benchmarks.files import FileBenchmark
from rtd_plugin.evaluation.image_features import name_images
from rtd_plugin.evaluation.image_files import image_suffixes, turn_upright
from rtd_plugin.paths import RecipePath
from rtd_plugin.printable import count_noun
from rtd_plugin.regular_files import read_text, resolve_links
from rtd_plugin.triplets.records import MAX_LINE_BYTES
from rtd_plugin.validation import describe_error

QUERY_FILES = ("queries.csv", "queries.jsonl")
SEPARATOR = ";"  # between several images or groups in a cell
REQUIRED = ("reference", "condition", "target")
LISTS = ("target", "gallery", "subset", "group", "wrong")
OTHER_SUFFIXES = {".avif", ".heic", ".heif", ".jxl", ".svg"}  # of images, beside those that Pillow knows


class OwnImages(FileBenchmark):
    """The images in a folder and its subfolders, also linked ones; each is turned as its EXIF orientation says.

    An image's name is its path in the folder. The reference is left out of each ranking.

    Attributes:
        skip_unreadable: as in `Benchmark`; True by default.
    """

    home: ClassVar[str] = "you"
    excludes_reference: ClassVar[bool] = True

    skip_unreadable: bool = True

    _turned: set[str] = PrivateAttr(default_factory=set)

    def gallery(self) -> Sequence[str]:
        return list(self._names)

    def path(self, name: str) -> Path:
        return self.data / name

    def image(self, name: str) -> Image.Image:
        stored = super().image(name)
        image = turn_upright(stored)
        if image is not stored:
            self._turned.add(name)
        return image

    def stamp(self, name: str) -> str | None:
        return f"{super().stamp(name)} upright"

    def remarks(self) -> Sequence[str]:
        remarks = []
        if self._turned:
            images = count_noun(len(self._turned), "image")
            remarks.append(f"{images} turned as the EXIF orientation says: {name_images(sorted(self._turned))}")
        if self._unread_suffixes:
            suffixes = ", ".join(f"{suffix} ({count})" for suffix, count in sorted(self._unread_suffixes.items()))
            files = count_noun(self._unread_suffixes.total(), "file")
            remarks.append(f"{files} in formats that are not read: {suffixes}")
        if self._dangling:
            links = count_noun(len(self._dangling), "link")
            verb = "leads" if len(self._dangling) == 1 else "lead"
            remarks.append(f"{links} {verb} to nothing: {name_images(self._dangling)}")
        return remarks

    @cached_property
    def _names(self) -> dict[str, None]:
        if not self.data.is_dir():
            raise RTDError(f"{self.data}: no such folder of images")
        suffixes = image_suffixes()
        names = sorted(path.as_posix() for path in self._files if path.suffix.lower() in suffixes)
        if not names:
            raise RTDError(f"{self.data}: no image in this folder")
        return dict.fromkeys(names)

    @cached_property
    def _unread_suffixes(self) -> Counter[str]:
        """The number of files with each suffix of unsupported images."""
        suffixes = (Image.registered_extensions().keys() | OTHER_SUFFIXES) - image_suffixes()
        return Counter(suffix for path in self._files if (suffix := path.suffix.lower()) in suffixes)

    @cached_property
    def _dangling(self) -> list[str]:
        """Links to nothing, which may have been folders; those that are named like images are in the gallery."""
        suffixes = image_suffixes()
        others = [path for path in self._files if path.suffix.lower() not in suffixes]
        return [
            path.as_posix()
            for path in others
            if os.path.islink(self.data / path) and not os.path.exists(self.data / path)
        ]

    @cached_property
    def _files(self) -> list[Path]:
        return [path.relative_to(self.data) for path in self._walk(self.data, ())]

    def _walk(self, folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
        """Yield all files in a folder and its subfolders except hidden ones; `above` are its parents."""
        resolved = Path(os.path.realpath(folder))
        if resolved in above:  # a link to one of its parents
            return
        if not self.is_allowed(resolved):
            raise self.refuse(folder, resolved)
        try:
            paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        except OSError as error:
            raise RTDError(f"{folder}: cannot be read ({error.strerror})") from error
        for path in paths:
            if os.path.isdir(path):  # Path.is_dir raises for a link to itself
                yield from self._walk(path, (*above, resolved))
            else:
                yield path


class _Query(BaseModel):
    """A line of the file of queries."""

    model_config = ConfigDict(extra="forbid")

    reference: str = Field(min_length=1)
    condition: tuple[str, ...] = Field(min_length=1, max_length=2)
    target: tuple[str, ...] = Field(min_length=1)
    gallery: tuple[str, ...] = ()
    subset: tuple[str, ...] = ()
    group: tuple[str, ...] = ()
    request: str = ""
    wrong: tuple[str, ...] = ()

    @field_validator("condition", *LISTS, mode="before")
    @classmethod
    def _wrap_string(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class Folder(OwnImages):
    """The images in a folder and its subfolders, and a file of queries.

    The file is CSV with a header, or JSON lines; each query has `reference`, `condition` and `target` (one or several,
    all of them right), and may have `group`, `gallery` (the images that are ranked for it; all by default), `subset`
    (candidates of subset recall), `wrong` (images known to be wrong answers) and `request` (a name shared by queries
    that are wordings of one request). In `gallery` and `subset`, a name that ends in "/" stands for all images below
    this folder.

    Attributes:
        queries_file: by default `queries.csv` or `queries.jsonl` in the folder.
    """

    name: ClassVar[str] = "folder"
    recall_of_any_target: ClassVar[bool] = True
    recall_at: ClassVar[tuple[int, ...]] = (1, 5, 10, 50)
    subset_recall_at: ClassVar[tuple[int, ...]] = (1, 2, 3)
    map_at: ClassVar[tuple[int, ...]] = (5, 10)
    spread_at: ClassVar[tuple[int, ...]] = (10,)

    queries_file: RecipePath | None = None

    def title(self) -> str:
        return resolve_links(self.data).name

    def queries(self) -> Sequence[Query]:
        file = self._find_file()
        try:
            text = read_text(file, "utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise RTDError(f"{file}: cannot be read as text in UTF-8 ({error})") from error
        is_csv = file.suffix.lower() == ".csv"
        lines: Iterator[tuple[int, Any]] = self._split_cells(file, text) if is_csv else enumerate(text.split("\n"), 1)
        parse = _Query.model_validate if is_csv else _Query.model_validate_json
        queries = []
        for line, values in lines:
            if isinstance(values, str) and not values.strip():
                continue
            try:
                query = parse(values)
            except ValidationError as error:
                problem = describe_error(error)
                key = f"{problem.key}: " if problem.key else ""
                raise RTDError(
                    f"{file}, line {line}: {key}{problem.sentence}; a query has reference, condition, target and "
                    "perhaps gallery, subset, group, request and wrong"
                ) from error
            queries.append(self._make_query(query, f"{file}, line {line}"))
        return queries

    def _make_query(self, query: _Query, location: str) -> Query:
        reference, gallery, subset = query.reference, self._list_below(query.gallery), self._list_below(query.subset)
        for name in (reference, *query.target, *gallery, *subset, *query.wrong):
            if name not in self._names:
                raise RTDError(f"{location}: no image {name} in {self.data}")
        if both := set(query.target) & set(query.wrong):
            raise RTDError(f"{location}: {min(both)} is a target and a wrong answer")
        return Query(
            reference=reference,
            conditions=query.condition,
            targets=tuple(dict.fromkeys(query.target)),
            candidates=gallery,
            subset=tuple(name for name in subset if name != reference),
            groups=query.group,
            request=query.request,
            wrong=tuple(name for name in dict.fromkeys(query.wrong) if name != reference),
        )

    def _list_below(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Replace names of folders, which end in "/", by the images below them."""
        images: dict[str, None] = {}
        for name in names:
            below = (each for each in self._names if each.startswith(name)) if name.endswith("/") else (name,)
            images |= dict.fromkeys(below)
        return tuple(images)

    def _split_cells(self, file: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Yield the rows of a CSV file, each with its line number, without empty cells."""
        # Not str.splitlines, which also splits at separators such as U+2028 within a cell.
        csv.field_size_limit(MAX_LINE_BYTES)  # of the process: triplet files set the same
        reader = csv.DictReader(io.StringIO(text, newline=""), restkey="more cells than the header has")
        try:
            if missing := [name for name in REQUIRED if name not in (reader.fieldnames or ())]:
                columns = ", ".join(map(repr, reader.fieldnames or ()))
                raise RTDError(f"{file}: no column {missing[0]}; the columns, separated by commas, are {columns}")
            for row in reader:
                values: dict[str, Any] = {key: value for key, value in row.items() if value not in (None, "")}
                for key in values.keys() & set(LISTS):
                    if values[key] not in self._names:  # a name may have a separator
                        values[key] = tuple(filter(None, map(str.strip, values[key].split(SEPARATOR))))
                yield reader.line_num, values
        except csv.Error as error:
            raise RTDError(f"{file}, after line {reader.line_num}: not CSV ({error})") from error

    def _find_file(self) -> Path:
        if self.queries_file is not None:
            if not self.queries_file.is_file():
                raise RTDError(f"{self.queries_file}: no such file (queries_file)")
            return self.queries_file
        files = [self.data / name for name in QUERY_FILES if (self.data / name).is_file()]
        if len(files) != 1:
            present = "both" if files else "neither"
            raise RTDError(
                f"{self.data}: expected queries.csv or queries.jsonl, found {present}; or set the option queries_file"
            )
        return files[0]

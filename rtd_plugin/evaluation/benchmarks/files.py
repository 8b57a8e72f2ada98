"""Benchmarks that are files on disk: reading annotations, finding images, and saying what is missing."""

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from PIL import Image
from pydantic import BaseModel, TypeAdapter, ValidationError, field_validator

from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation.benchmark import Benchmark
from rtd_plugin.evaluation.pictures import open_image
from rtd_plugin.paths import RecipePath

Content = TypeVar("Content")


class FileBenchmark(Benchmark):
    """A benchmark in a folder.

    Annotations may be anybody's: they name pictures inside the folder, links resolved, or inside a folder that the user
    names. Any other file is refused before it is opened.

    Attributes:
        data: the folder.
        image_roots: further folders that pictures may lie in, as where `data` has links to a shared copy.
        image_roots_option: how a user gives `image_roots`, for messages; `{}` is the folder.
        published: number of queries and of images in the gallery of each part that is known.
    """

    published: ClassVar[Mapping[str, tuple[int, int]]] = {}

    image_roots_option: ClassVar[str] = "--set image_roots=[{0}], or image_roots: [{0}] in a recipe"

    data: RecipePath
    image_roots: tuple[RecipePath, ...] = ()

    @field_validator("image_roots", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @abstractmethod
    def path(self, name: str) -> Path:
        """The file of an image."""

    def image(self, name: str) -> Image.Image:
        """Read an image as it is stored and close its file.

        Raises:
            RTDError: its file lies outside the benchmark, or cannot be read.
        """
        return open_image(self.resolve_path(name))

    def stamp(self, name: str) -> str | None:
        """Return the file's path, size and time of change.

        Raises:
            OSError: the file is missing.
            RTDError: it lies outside the benchmark.
        """
        path = self.resolve_path(name)
        stat = path.stat()
        return f"{path} {stat.st_size} {stat.st_mtime_ns}"

    def resolve_path(self, name: str) -> Path:
        """Return the file of an image with links resolved.

        Raises:
            RTDError: it is neither in `data` nor in one of `image_roots`.
        """
        path = self.path(name)
        try:
            # Not Path.resolve, which raises RuntimeError for a link to itself.
            resolved = Path(os.path.realpath(path))
        except ValueError as error:
            raise RTDError(f"{str(path)!r}: not a name of a file ({error}): mend the annotations") from error
        if not any(resolved.is_relative_to(root) for root in self._resolved_roots):
            option = self.image_roots_option.format(resolved.parent)
            raise RTDError(
                f"{path}: leads out of {self.data}, to {resolved}: if you trust it, name its folder or one above "
                f"with {option}"
            )
        return resolved

    def allowed_roots(self) -> Sequence[Path]:
        """Return the folders, or single files, that the user named: all others are refused as pictures."""
        return (self.data, *self.image_roots)

    @cached_property
    def _resolved_roots(self) -> tuple[Path, ...]:
        return tuple(Path(os.path.realpath(root)) for root in self.allowed_roots())

    def read(self, path: Path, kind: type[Content] | Any, part: str = "") -> Content:
        """A JSON file of the benchmark as objects of a kind.

        Args:
            path: the file.
            kind: what pydantic is to make of it.
            part: the part of the benchmark it is for, whose counts may be known.

        Raises:
            RTDError: it is missing, broken, or of something else.
        """
        if not path.is_file():
            counts = ""
            if part in self.published:
                queries, images = self.published[part]
                counts = f" ({part} has {queries} queries, {images} images)"
            raise RTDError(f"{self.name}: {path} is missing{counts}; the files are from {self.home}")
        try:
            return TypeAdapter(kind).validate_json(path.read_bytes())
        except OSError as error:
            raise RTDError(f"{path}: cannot be read ({error.strerror})") from error
        except ValidationError as error:
            problem = error.errors()[0]
            where = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in problem["loc"])
            raise RTDError(
                f"{path}: not a file of {self.name}{f' {part}' if part else ''}: {where.lstrip('.') or 'it'}: "
                f"{problem['msg'][0].lower()}{problem['msg'][1:]}; the files are from {self.home}"
            ) from error

    def differs(self, part: str, queries: int, images: int) -> Sequence[str]:
        """A remark if a part has other numbers of queries and images than were published."""
        if part not in self.published or self.published[part] == (queries, images):
            return ()
        whole = "{} queries and {} images".format(*self.published[part])
        return (
            f"{self.name} {part} has {queries} queries and {images} images here, but {whole} as published: "
            "figures do not compare with published ones",
        )


class Record(BaseModel):
    """An entry of an annotation file; fields that nobody needs are left out."""


def check_submission(
    rankings: Mapping[str, Sequence[Any]], queries: Sequence[str], images: set[Any], length: int, server: str
) -> Mapping[str, Sequence[Any]]:
    """Rankings by query id, if a server accepts them.

    Raises:
        RTDError: a query is missing, there twice or unknown, or a ranking is too short, or has an image twice or one
            that is not in the gallery.
    """

    def refuse(what: str) -> RTDError:
        return RTDError(f"the server of {server} would refuse the submission: {what}; nothing was written")

    if len(set(queries)) != len(queries):
        raise refuse(f"{len(queries)} queries have {len(set(queries))} different ids")
    if rankings.keys() != set(queries):
        odd = sorted(rankings.keys() ^ set(queries))
        raise refuse(f"its queries are not those of the split, such as {odd[0]}")
    for query, ranked in rankings.items():
        if len(ranked) != length:
            raise refuse(f"query {query} has {len(ranked)} images and needs {length}")
        if len(set(ranked)) != length:
            raise refuse(f"query {query} has an image twice")
        if not images.issuperset(ranked):
            raise refuse(f"query {query} has an image that is not in the gallery")
    return rankings

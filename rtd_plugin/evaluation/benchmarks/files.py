"""Benchmarks in files on disk: reading annotations, finding images, and saying what is missing."""

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from PIL import Image
from pydantic import (
    BaseModel,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_serializer,
)

from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation.benchmark import Benchmark
from rtd_plugin.evaluation.pictures import open_image
from rtd_plugin.paths import RecipePath
from rtd_plugin.regular_files import read_bytes
from rtd_plugin.validation import describe_error

Content = TypeVar("Content")


class FileBenchmark(Benchmark):
    """A benchmark in a folder.

    Annotations are not trusted: they may name images inside the folder, links resolved, or inside `image_roots`. Any
    other file is refused before it is opened.

    Attributes:
        data: the folder.
        image_roots: further folders that images may lie in, for example if `data` has links to a shared copy.
        image_roots_option: how a user sets `image_roots`, for messages; `{}` is the folder.
        published: numbers of queries and of gallery images by split (or category, or task).
    """

    published: ClassVar[Mapping[str, tuple[int, int]]] = {}

    image_roots_option: ClassVar[str] = "--set image_roots=[{0}], or image_roots: [{0}] in a recipe"

    data: RecipePath
    image_roots: tuple[RecipePath, ...] = ()

    @field_validator("image_roots", mode="before")
    @classmethod
    def _wrap_string(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_serializer(mode="wrap")
    def _omit_empty_roots(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Recipes that were saved before the option existed stay equal to those that are saved now.
        values = serialize(self)
        return values if self.image_roots else {key: value for key, value in values.items() if key != "image_roots"}

    @abstractmethod
    def path(self, name: str) -> Path:
        """Return the file of an image; the file need not exist."""

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
            raise RTDError(f"{str(path)!r}: not a name of a file ({error}): correct the annotations") from error
        if not any(resolved.is_relative_to(root) for root in self._resolved_roots):
            option = self.image_roots_option.format(resolved.parent)
            raise RTDError(
                f"{path}: leads out of {self.data}, to {resolved}: if you trust it, name its folder or a parent with "
                f"{option}"
            )
        return resolved

    def allowed_roots(self) -> Sequence[Path]:
        """Return the folders, or single files, that the user named: all others are refused as pictures."""
        return (self.data, *self.image_roots)

    @cached_property
    def _resolved_roots(self) -> tuple[Path, ...]:
        return tuple(Path(os.path.realpath(root)) for root in self.allowed_roots())

    def read(self, path: Path, content_type: type[Content] | Any, split: str = "") -> Content:
        """Return the content of a JSON file of the benchmark, as objects of a type that pydantic knows.

        Args:
            path: the file.
            content_type: such as `list[SomeModel]`.
            split: the key in `published`, whose counts a message shows.

        Raises:
            RTDError: the file is missing or broken, or has other content.
        """
        if not path.is_file():
            counts = ""
            if split in self.published:
                queries, images = self.published[split]
                counts = f" ({split} has {queries} queries, {images} images)"
            raise RTDError(f"{self.name}: {path} is missing{counts}; the files are from {self.home}")
        try:
            return TypeAdapter(content_type).validate_json(read_bytes(path))
        except OSError as error:
            raise RTDError(f"{path}: cannot be read ({error.strerror})") from error
        except ValidationError as error:
            problem = describe_error(error)
            key = f"{problem.key}: " if problem.key else ""
            raise RTDError(
                f"{path}: not a file of {self.name}{f' {split}' if split else ''}: {key}{problem.sentence}; "
                f"the files are from {self.home}"
            ) from error

    def compare_counts(self, split: str, queries: int, images: int) -> Sequence[str]:
        """Return a remark if a split's numbers of queries and images are not the published ones."""
        if split not in self.published or self.published[split] == (queries, images):
            return ()
        published = "{} queries and {} images".format(*self.published[split])
        return (
            f"{self.name} {split} has {queries} queries and {images} images here, but {published} as published: "
            "results are not comparable with published ones",
        )


class Record(BaseModel):
    """An entry of an annotation file; other fields are ignored."""


def check_submission(
    rankings: Mapping[str, Sequence[Any]], queries: Sequence[str], images: set[Any], length: int, server: str
) -> Mapping[str, Sequence[Any]]:
    """Return rankings by query id, after checking that a server will accept them.

    Args:
        rankings: query id to ranked images.
        queries: ids of all queries.
        images: the gallery.
        length: images in each ranking.
        server: its name in messages.

    Raises:
        RTDError: a query is missing, duplicate or unknown, or a ranking is too short, or has an image twice or one that
            is not in the gallery.
    """

    def refuse(problem: str) -> RTDError:
        return RTDError(f"the server of {server} would refuse the submission: {problem}; nothing was written")

    if len(set(queries)) != len(queries):
        raise refuse(f"{len(queries)} queries have {len(set(queries))} different ids")
    if rankings.keys() != set(queries):
        example = min(rankings.keys() ^ set(queries))
        raise refuse(f"its queries are not those of the split, such as {example}")
    for query, ranked in rankings.items():
        if len(ranked) != length:
            raise refuse(f"query {query} has {len(ranked)} images and needs {length}")
        if len(set(ranked)) != length:
            raise refuse(f"query {query} has an image twice")
        if not images.issuperset(ranked):
            raise refuse(f"query {query} has an image that is not in the gallery")
    return rankings

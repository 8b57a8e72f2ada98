"""Benchmarks in files on disk: reading annotations, finding images, and reporting missing files."""

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from PIL import Image
from pydantic import BaseModel, Field, TypeAdapter, ValidationError, field_validator

from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation.benchmark import Benchmark
from rtd_plugin.evaluation.image_files import open_image
from rtd_plugin.paths import RecipePath
from rtd_plugin.regular_files import read_bytes, resolve_links
from rtd_plugin.validation import describe_error

LISTED = 8  # entries of a folder that a message lists

Content = TypeVar("Content")
Id = Annotated[int, Field(ge=0, lt=2**63)]  # of an image or a query


class FileBenchmark(Benchmark):
    """A benchmark in a folder.

    Annotations are not trusted: they may name images inside the folder, links resolved, or inside `image_roots`. Any
    other file is refused before it is opened.

    Attributes:
        data: the folder.
        image_roots: further folders that images may be in, for example if `data` has links to a shared copy.
        image_roots_option: how a user sets `image_roots`, for messages; `{}` is the folder.
        image_folders: the options that name folders of images.
        published: numbers of queries and of gallery images by split (or category, or task).
    """

    published: ClassVar[Mapping[str, tuple[int, int]]] = {}
    image_folders: ClassVar[tuple[str, ...]] = ()
    image_roots_option: ClassVar[str] = "--set image_roots=[{0}], or image_roots: [{0}] in a recipe"

    data: RecipePath
    image_roots: tuple[RecipePath, ...] = ()

    @field_validator("image_roots", mode="before")
    @classmethod
    def _wrap_string(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @abstractmethod
    def path(self, name: str) -> Path:
        """Return the file of an image; the file need not exist."""

    def image(self, name: str) -> Image.Image:
        """Read an image and close its file.

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
            OSError: it is a broken link out of the benchmark.
            RTDError: it is neither in `data` nor in one of `image_roots`.
        """
        path = self.path(name)
        try:
            resolved = resolve_links(path)
        except ValueError as error:
            raise RTDError(f"{str(path)!r}: not a name of a file ({error}): correct the annotations") from error
        if not self.is_allowed(resolved):
            if path.is_symlink():
                path.stat()
            raise self.refuse(path, resolved)
        return resolved

    def is_allowed(self, resolved: Path) -> bool:
        """Return whether a file or folder, links resolved, lies in one of `allowed_roots`."""
        return any(resolved.is_relative_to(root) for root in self._resolved_roots)

    def refuse(self, path: Path, resolved: Path) -> RTDError:
        """Return the error for a path that leads to a file or folder outside `allowed_roots`."""
        option = self.image_roots_option.format(resolved if resolved.is_dir() else resolved.parent)
        return RTDError(
            f"{path}: leads out of {self.data}, to {resolved}: if you trust it, name its folder or a parent with "
            f"{option}"
        )

    def allowed_roots(self) -> Sequence[Path]:
        """Return the folders that the user named: images elsewhere are refused."""
        return (self.data, *self.image_roots, *filter(None, (getattr(self, name) for name in self.image_folders)))

    @cached_property
    def _resolved_roots(self) -> tuple[Path, ...]:
        return tuple(resolve_links(root) for root in self.allowed_roots())

    def source(self) -> str:
        """Return where the files come from, and what the folder has instead of missing ones."""
        return "; ".join([self.home, *(f"{root} has {_list_folder(root)}" for root in self.allowed_roots())])

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
            raise RTDError(f"{self.name}: {path} is missing{counts}; the files are from {self.source()}")
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

    def counts(self) -> Mapping[str, tuple[int, int]]:
        """Return the numbers of queries and of gallery images of what is evaluated, with the keys of `published`."""
        return {}

    def remarks(self) -> Sequence[str]:
        """Return a remark for each split whose numbers of queries and images are not the published ones."""
        return [
            f"{self.name} {split} has {queries} queries and {images} images here, but {self.published[split][0]} "
            f"queries and {self.published[split][1]} images as published: results are not comparable with published "
            "ones"
            for split, (queries, images) in self.counts().items()
            if self.published.get(split, (queries, images)) != (queries, images)
        ]


class Record(BaseModel):
    """An entry of an annotation file; other fields are ignored."""


def find_file(paths: Sequence[Path]) -> Path:
    """Return the first of some paths that exists, or the first."""
    return next((path for path in paths if os.path.exists(path)), paths[0])  # Path.exists raises for too long names


def _list_folder(folder: Path) -> str:
    try:
        # Not os.scandir, whose `is_dir` raises for a link to itself.
        entries = sorted(f"{name}/" if os.path.isdir(folder / name) else name for name in os.listdir(folder))
    except OSError as error:
        return f"nothing ({error.strerror})"
    return (", ".join(entries[:LISTED]) + (", …" if len(entries) > LISTED else "")) or "nothing"


def check_submission(rankings: Mapping[str, Sequence[Any]], queries: int, length: int, server: str) -> None:
    """Check that a server will accept the rankings of a split.

    Args:
        rankings: query id to ranked images.
        queries: how many there are.
        length: images that each ranking needs.
        server: its name in messages.

    Raises:
        RTDError: two queries have the same id, or a ranking is too short.
    """
    problem = None
    if len(rankings) != queries:
        problem = f"{queries} queries have {len(rankings)} different ids"
    for query, ranked in rankings.items():
        if len(ranked) != length:
            problem = problem or f"query {query} has {len(ranked)} images and needs {length}"
    if problem:
        raise RTDError(f"the server of {server} would refuse the submission: {problem}; nothing was written")

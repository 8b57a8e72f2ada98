"""Benchmarks that are files on disk: reading annotations, finding images, and saying what is missing."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from PIL import Image
from pydantic import BaseModel, TypeAdapter, ValidationError

from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation.benchmark import Benchmark
from rtd_plugin.paths import RecipePath

Content = TypeVar("Content")


class FileBenchmark(Benchmark):
    """A benchmark in a folder.

    Attributes:
        data: the folder.
        published: number of queries and of images in the gallery of each part that is known.
    """

    published: ClassVar[Mapping[str, tuple[int, int]]] = {}

    data: RecipePath

    @abstractmethod
    def path(self, name: str) -> Path:
        """The file of an image."""

    def image(self, name: str) -> Image.Image:
        """The image as it is stored; its file is closed."""
        with Image.open(self.path(name)) as image:
            image.load()
            return image

    def stamp(self, name: str) -> str | None:
        """The file's path, size and time of change."""
        path = self.path(name)
        stat = path.stat()
        return f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"

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


def checked_submission(
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

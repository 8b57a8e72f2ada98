"""A folder of images that is searched."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from rtd_plugin.evaluation.benchmark import Query
from rtd_plugin.evaluation.benchmarks.folder import OwnImages
from rtd_plugin.regular_files import resolve_links


class ImageFolder(OwnImages):
    """The images in a folder and its subfolders; an image's name is its path in the folder."""

    name: ClassVar[str] = "search"
    image_roots_option: ClassVar[str] = "--image-root {}"

    def title(self) -> str:
        return str(self.data)

    def queries(self) -> Sequence[Query]:
        return []

    def find_name(self, file: Path) -> str | None:
        """Return the name of an image file; None if it lies elsewhere."""
        resolved = resolve_links(file)
        return resolved.relative_to(self._folder).as_posix() if resolved.is_relative_to(self._folder) else None

    @cached_property
    def _folder(self) -> Path:
        return resolve_links(self.data)

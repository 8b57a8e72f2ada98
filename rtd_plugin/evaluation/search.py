"""One composed query, ranked against the images of a folder."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from rtd_plugin.evaluation.benchmark import Query
from rtd_plugin.evaluation.benchmarks.folder import ImageFolder
from rtd_plugin.paths import RecipePath


class Search(ImageFolder):
    """The images in a folder and its subfolders, and a reference image there or elsewhere, which is not ranked.

    Attributes:
        reference: the reference image.
        condition: the change, in words.
    """

    name: ClassVar[str] = "search"
    image_roots_option: ClassVar[str] = "--image-root {}"

    reference: RecipePath
    condition: str

    def queries(self) -> Sequence[Query]:
        return [Query(reference=self.reference_name, conditions=(self.condition,))]

    def allowed_roots(self) -> Sequence[Path]:
        return (*super().allowed_roots(), self.reference)

    @cached_property
    def reference_name(self) -> str:
        """The reference image's path in the folder, or its absolute path if it is elsewhere."""
        file, folder = self.reference.resolve(), self.data.resolve()
        return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file)

"""What a benchmark is: a gallery of images and queries against it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from PIL import Image
from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True)
class Query:
    """One composed query; images are given by name.

    Attributes:
        reference: the reference image.
        condition: what is to change, as a person wrote it.
        target: the image to be found.
        subset: candidates of subset recall, target included, reference not; empty where a benchmark has none.
        group: results are also given for each group of queries apart.
        target_caption: what the target image shows, where known: an upper bound for a text query.
    """

    reference: str
    condition: str
    target: str
    subset: tuple[str, ...] = ()
    group: str = ""
    target_caption: str = ""


class Benchmark(BaseModel, ABC):
    """A kind of benchmark; its fields are the options that a recipe may give it.

    A plugin subclasses it, sets `name` (the recipe's `benchmark:`) and registers the class through the
    hook `rtd_benchmarks`.
    """

    model_config = ConfigDict(extra="forbid")

    name: ClassVar[str]
    excludes_reference: ClassVar[bool]  # whether the reference image is taken out of each ranking

    @abstractmethod
    def queries(self) -> Sequence[Query]:
        """All queries, always in the same order."""

    @abstractmethod
    def gallery(self) -> Sequence[str]:
        """Names of the images that are ranked, always in the same order."""

    @abstractmethod
    def image(self, name: str) -> Image.Image:
        """An image of the gallery, or a reference image that is not in it, in RGB."""

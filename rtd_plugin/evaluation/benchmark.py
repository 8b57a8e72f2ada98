"""What a benchmark is: queries, a gallery of images, and the metrics that are reported on it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL import Image
from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True)
class Query:
    """One composed query; images are given by name.

    Attributes:
        reference: the reference image.
        conditions: what is to change, as people wrote it: one condition, or two as in FashionIQ.
        targets: the images to be found, foremost the one that recall is about; mAP is about all. Empty in a split
            whose targets are kept secret.
        candidates: the images that are ranked; empty for the whole gallery.
        subset: candidates of subset recall, with the target; empty where a benchmark has none.
        groups: results are also given for the queries of each group apart.
        target_caption: what the target shows, where known: an upper bound for a text query.
        id: how the benchmark's server calls the query.
    """

    reference: str
    conditions: tuple[str, ...]
    targets: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    subset: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    target_caption: str = ""
    id: str = ""


class Benchmark(BaseModel, ABC):
    """A kind of benchmark; its fields are the options that a recipe or the command line may give it.

    A plugin subclasses it, sets `name` (the recipe's `benchmark:`) and registers the class through the
    hook `rtd_benchmarks`.

    Attributes:
        name: how the command line and recipes call it.
        home: where its files come from, for whoever lacks some.
        excludes_reference: whether the reference image is taken out of each ranking.
        averages_groups: whether results over all queries are the mean of those of the groups, as where the groups are
            categories with galleries of their own.
        recall_at, subset_recall_at, map_at: the depths k of the metrics that are reported.
    """

    model_config = ConfigDict(extra="forbid")

    name: ClassVar[str]
    home: ClassVar[str] = ""
    excludes_reference: ClassVar[bool] = False
    averages_groups: ClassVar[bool] = False
    recall_at: ClassVar[tuple[int, ...]] = (1, 5, 10)
    subset_recall_at: ClassVar[tuple[int, ...]] = ()
    map_at: ClassVar[tuple[int, ...]] = ()

    @abstractmethod
    def queries(self) -> Sequence[Query]:
        """All queries, always in the same order."""

    @abstractmethod
    def gallery(self) -> Sequence[str]:
        """Names of the images that are ranked, always in the same order."""

    @abstractmethod
    def image(self, name: str) -> Image.Image:
        """An image of the gallery, or a reference image that is not in it, in any of Pillow's modes."""

    def stamp(self, name: str) -> str | None:
        """What changes whenever the image of that name does, such as its file's path, size and time.

        Features are kept on disk under it; None keeps none.

        Raises:
            OSError: there is no such image.
            RTDError: the image must not be read.
        """
        return None

    def remarks(self) -> Sequence[str]:
        """What a reader of the results has to know, such as that this is not the whole published split."""
        return ()

    def submissions(self, rankings: Sequence["RankedNames"]) -> Mapping[str, Any]:
        """Files for the server that knows the targets, by file name: what each is to hold as JSON.

        Args:
            rankings: one a query, in the order of `queries`.

        Raises:
            RTDError: they are not what the server accepts.
        """
        return {}


@dataclass(frozen=True)
class RankedNames:
    """What was found for one query.

    Attributes:
        query: the query.
        names: the best images, best first: 50, or all candidates if they are fewer.
        subset: the images of the query's subset, best first, its reference left out where the benchmark excludes it.
    """

    query: Query
    names: Sequence[str]
    subset: Sequence[str]

"""The base class of benchmarks: queries, a gallery of images, and the metrics that are reported."""

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
        conditions: the change, as the annotators wrote it: one condition, or two as in FashionIQ.
        targets: the target images. mAP uses all, recall the first or any (`Benchmark.recall_of_any_target`). Empty in
            a split whose targets are secret.
        candidates: the images that are ranked; empty for the whole gallery.
        subset: candidates of subset recall, with the target; empty if the benchmark has no subsets.
        groups: groups of queries that metrics are also computed for.
        target_caption: a caption of the target, if known: as a text query it is an upper bound.
        id: the query's id on the benchmark's server.
        request: a name that is shared by all queries that ask for the same in other words; empty for a query of which
            there is one wording.
        wrong: images that look right and are known to be wrong answers.
    """

    reference: str
    conditions: tuple[str, ...]
    targets: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()
    subset: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    target_caption: str = ""
    id: str = ""
    request: str = ""
    wrong: tuple[str, ...] = ()


class Benchmark(BaseModel, ABC):
    """A benchmark; its fields are the options that a recipe or the command line may set.

    A plugin subclasses it, sets `name` (the recipe's `benchmark:`) and registers the class with the hook
    `rtd_benchmarks`.

    Attributes:
        name: its name on the command line and in recipes.
        home: where its files can be downloaded, for messages.
        excludes_reference: whether the reference image is left out of each ranking.
        averages_groups: whether metrics over all queries are the means of the groups' metrics, for example if groups
            are categories with separate galleries.
        recall_of_any_target: whether a query counts as found by any of its targets, or by the first alone.
        recall_at, subset_recall_at, map_at: the depths k of the metrics that are reported.
        wrong_at: the depths k, at most 50, of the share of wrong answers, if queries have any.
        spread_at: the depths k at which recall and mAP are compared between the wordings of a request, if requests have
            several.
        skip_unreadable: whether images that are missing or cannot be read are left out, with the queries that need
            them, and said; otherwise they are an error.
    """

    model_config = ConfigDict(extra="forbid")

    name: ClassVar[str]
    home: ClassVar[str] = ""
    excludes_reference: ClassVar[bool] = False
    averages_groups: ClassVar[bool] = False
    recall_of_any_target: ClassVar[bool] = False
    recall_at: ClassVar[tuple[int, ...]] = (1, 5, 10)
    subset_recall_at: ClassVar[tuple[int, ...]] = ()
    map_at: ClassVar[tuple[int, ...]] = ()
    wrong_at: ClassVar[tuple[int, ...]] = (10,)
    spread_at: ClassVar[tuple[int, ...]] = (1, 10)

    skip_unreadable: bool = False

    @abstractmethod
    def queries(self) -> Sequence[Query]:
        """Return all queries, always in the same order."""

    @abstractmethod
    def gallery(self) -> Sequence[str]:
        """Return the names of the images that are ranked, always in the same order."""

    @abstractmethod
    def image(self, name: str) -> Image.Image:
        """Return an image of the gallery, or a reference image outside it, in any of Pillow's modes."""

    def stamp(self, name: str) -> str | None:
        """Return a text that changes whenever the image does, such as its file's path, size and time.

        Features are kept on disk under it; None means that they are not kept.

        Raises:
            OSError: there is no such image.
            RTDError: the image must not be read.
        """
        return None

    def remarks(self) -> Sequence[str]:
        """Return remarks for readers of the results, such as that the published split is incomplete here."""
        return ()

    def title(self) -> str:
        """Return a heading for the results."""
        return self.name

    def source(self) -> str:
        """Return where the files come from, for messages about missing ones."""
        return self.home

    def submissions(self, rankings: Sequence["RankedNames"]) -> Mapping[str, Any]:
        """Return files for the server that knows the targets: the JSON content of each, by file name.

        Args:
            rankings: of each query, in the order of `queries`.

        Raises:
            RTDError: the server would not accept them.
        """
        return {}


@dataclass(frozen=True)
class RankedNames:
    """The ranking of one query.

    Attributes:
        query: the query.
        names: the best images, best first: 50, or all candidates if there are fewer.
        subset: the best images of the query's subset, best first, without the reference if the benchmark excludes it.
    """

    query: Query
    names: Sequence[str]
    subset: Sequence[str]

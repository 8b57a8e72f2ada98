"""Text triplets, and the base class of their sources."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field


class Triplet(NamedTuple):
    """A text triplet, unprocessed (RTD, section 3.1).

    Attributes:
        reference: the caption of the reference image.
        condition: how the target differs from the reference.
        target: the caption of the target image.
    """

    reference: str
    condition: str
    target: str


class Triplets(Protocol):
    """Triplets that can be counted, and iterated any number of times: for example a list."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Triplet]: ...


class TripletSet:
    """The triplets of one source, with what a run reports about them.

    Args:
        triplets: in memory or not, or a function that returns them when they are first used.
        digest: of the content, or a function that returns it: equal only for equal triplets in equal order.
        skipped: number of broken records that were left out.
        count: number of triplets, if it is known without loading them.

    Example:
        >>> TripletSet([Triplet("a red dog", "is blue", "a blue dog")], digest="1").count
        1
    """

    def __init__(
        self,
        triplets: Triplets | Callable[[], Triplets],
        digest: str | Callable[[], str],
        skipped: int = 0,
        count: int | None = None,
    ) -> None:
        self.skipped = skipped
        self._triplets, self._digest, self._count = triplets, digest, count

    @cached_property
    def triplets(self) -> Triplets:
        return self._triplets() if callable(self._triplets) else self._triplets

    @cached_property
    def count(self) -> int:
        return len(self.triplets) if self._count is None else self._count

    @cached_property
    def digest(self) -> str:
        return self._digest if isinstance(self._digest, str) else self._digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TripletSet) and (self.digest, self.skipped) == (other.digest, other.skipped)

    def __hash__(self) -> int:
        return hash(self.digest)


class TripletSource(BaseModel, ABC):
    """The base class of triplet sources; its fields are the options that a recipe may set.

    A plugin subclasses it, sets `name` (the recipe's `source:`) and registers the class through the
    hook `rtd_triplet_sources`.

    Attributes:
        weight: the source's share of an epoch, relative to the other sources; None: every triplet once.
    """

    model_config = ConfigDict(extra="forbid")

    name: ClassVar[str]

    weight: float | None = Field(None, ge=1e-6, le=1e6)

    @abstractmethod
    def load(self) -> TripletSet:
        """Load the triplets.

        Raises:
            RTDError: a file is missing or a record is broken; the message names file and record.
        """

    def depends_on(self) -> Iterable[Path] | None:
        """Return the files that, with the source's options, determine its triplets.

        As long as neither changes, later runs start without calling `load`. The default, None, means that they depend
        on more: every run loads the triplets. A subclass that overrides `load` overrides this as well.
        """
        return None

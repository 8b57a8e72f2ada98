"""What a text triplet is, and what a source of them must offer."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, Field


class Triplet(NamedTuple):
    """Three texts, raw as their source has them (RTD, section 3.1)."""

    reference: str
    condition: str
    target: str


class TripletSet:
    """The triplets of one source, with what a run has to report about them.

    Args:
        triplets: a sequence that need not be in memory: iterating, and slices in order, are always cheap.
        digest: of the content: equal digests, equal triplets in equal order.
        skipped: broken records that were left out.
        count: how many triplets there are, if that is known without them.

    Of triplets and digest, a function is called when they are first asked for.
    """

    def __init__(
        self,
        triplets: Sequence[Triplet] | Callable[[], Sequence[Triplet]],
        digest: str | Callable[[], str],
        skipped: int = 0,
        count: int | None = None,
    ) -> None:
        self.skipped = skipped
        self._triplets, self._digest, self._count = triplets, digest, count

    @cached_property
    def triplets(self) -> Sequence[Triplet]:
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
    """A kind of triplet source; its fields are the options that a recipe may give it.

    A plugin subclasses it, sets `name` (the recipe's `source:`) and registers the class through the
    hook `rtd_triplet_sources`.

    Attributes:
        weight: the source's share of what a run visits, relative to the others'; None: each triplet counts alike.
    """

    model_config = ConfigDict(extra="forbid")

    name: ClassVar[str]

    weight: float | None = Field(None, gt=0, allow_inf_nan=False)

    @abstractmethod
    def load(self) -> TripletSet:
        """Open the triplets.

        Raises:
            RTDError: a file is missing or a record is broken; the message names file and record.
        """

    def depends_on(self) -> Iterable[Path] | None:
        """The files that tell, together with the source's options, which triplets there are.

        As long as neither changes, later runs start without loading the triplets. None, if not overridden: something
        else counts too, and every run loads them.
        """
        return None

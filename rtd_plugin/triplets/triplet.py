"""What a text triplet is, and what a source of them must offer."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict


class Triplet(NamedTuple):
    """Three texts, raw as their source has them (RTD, section 3.1)."""

    reference: str
    condition: str
    target: str


class TripletSet(NamedTuple):
    """The triplets of one source, with what a run has to report about them."""

    triplets: Sequence[Triplet]
    digest: str  # of the content: equal digests, equal triplets in equal order
    skipped: int = 0


class TripletSource(BaseModel, ABC):
    """A kind of triplet source; its fields are the options that a recipe may give it.

    A plugin subclasses it, sets `name` (the recipe's `source:`) and registers the class through the
    hook `rtd_triplet_sources`.
    """

    model_config = ConfigDict(extra="forbid")

    name: ClassVar[str]

    @abstractmethod
    def load(self) -> TripletSet:
        """Read all triplets.

        Raises:
            RTDError: a file is missing or a record is broken; the message names file and record.
        """

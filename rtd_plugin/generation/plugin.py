"""The plugin of the triplet sources that generate their triplets from captions, imported when a recipe is read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rtd_plugin.contract.hookspecs import hookimpl

if TYPE_CHECKING:
    from rtd_plugin.triplets.triplet import TripletSource


@hookimpl
def rtd_triplet_sources() -> Iterable[type[TripletSource]]:
    from rtd_plugin.generation.generated_sources import LlmTriplets, RuleTriplets

    return [RuleTriplets, LlmTriplets]

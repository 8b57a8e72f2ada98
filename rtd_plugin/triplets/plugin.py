"""The plugin of the built-in triplet sources, which are imported when a recipe is read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rtd_plugin.contract.hookspecs import hookimpl

if TYPE_CHECKING:
    from rtd_plugin.triplets.triplet import TripletSource


@hookimpl
def rtd_triplet_sources() -> Iterable[type[TripletSource]]:
    from rtd_plugin.triplets.json_source import InstructPix2PixTriplets, JsonTriplets
    from rtd_plugin.triplets.sources import CsvTriplets, DatasetTriplets, ParquetSource

    return [JsonTriplets, InstructPix2PixTriplets, CsvTriplets, ParquetSource, DatasetTriplets]

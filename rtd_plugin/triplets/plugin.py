"""The plugin that registers the built-in triplet sources; they are imported when a recipe is read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rtd_plugin.contract.markers import hookimpl

if TYPE_CHECKING:
    from rtd_plugin.triplets.triplet import TripletSource


@hookimpl
def rtd_triplet_sources() -> Iterable[type[TripletSource]]:
    """Return the sources `json`, `csv`, `parquet` and `datasets`."""
    from rtd_plugin.triplets.sources import CsvTriplets, DatasetTriplets, JsonTriplets, ParquetSource

    return [JsonTriplets, CsvTriplets, ParquetSource, DatasetTriplets]

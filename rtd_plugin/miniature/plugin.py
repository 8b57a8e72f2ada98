"""The miniature as a plugin: its benchmark and its triplet source, imported when one is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rtd_plugin.contract.markers import hookimpl

if TYPE_CHECKING:
    from rtd_plugin.evaluation.benchmark import Benchmark
    from rtd_plugin.triplets.triplet import TripletSource


@hookimpl
def rtd_benchmarks() -> Iterable[type[Benchmark]]:
    from rtd_plugin.miniature.benchmark import MiniatureBenchmark

    return [MiniatureBenchmark]


@hookimpl
def rtd_triplet_sources() -> Iterable[type[TripletSource]]:
    from rtd_plugin.miniature.triplets import MiniatureTriplets

    return [MiniatureTriplets]

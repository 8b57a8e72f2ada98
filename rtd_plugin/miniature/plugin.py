"""The miniature as a plugin: its benchmark and its triplet source."""

from collections.abc import Iterable

from rtd_plugin.contract.hookspecs import hookimpl
from rtd_plugin.evaluation.benchmark import Benchmark
from rtd_plugin.miniature.benchmark import MiniatureBenchmark
from rtd_plugin.miniature.triplets import MiniatureTriplets
from rtd_plugin.triplets.triplet import TripletSource


@hookimpl
def rtd_benchmarks() -> Iterable[type[Benchmark]]:
    return [MiniatureBenchmark]


@hookimpl
def rtd_triplet_sources() -> Iterable[type[TripletSource]]:
    return [MiniatureTriplets]

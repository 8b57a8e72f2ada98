"""The field's benchmarks and a folder of one's own, as a plugin."""

from collections.abc import Iterable

from rtd_plugin.contract.hookspecs import hookimpl
from rtd_plugin.evaluation.benchmark import Benchmark
from rtd_plugin.evaluation.benchmarks.circo import CIRCO
from rtd_plugin.evaluation.benchmarks.cirr import CIRR
from rtd_plugin.evaluation.benchmarks.fashioniq import FashionIQ
from rtd_plugin.evaluation.benchmarks.folder import Folder
from rtd_plugin.evaluation.benchmarks.genecis import GeneCIS


@hookimpl
def rtd_benchmarks() -> Iterable[type[Benchmark]]:
    return [CIRR, CIRCO, FashionIQ, GeneCIS, Folder]

"""The built-in benchmarks as a plugin: those of the field, and a folder of images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rtd_plugin.contract.markers import hookimpl

if TYPE_CHECKING:
    from rtd_plugin.evaluation.benchmark import Benchmark


@hookimpl
def rtd_benchmarks() -> Iterable[type[Benchmark]]:
    from rtd_plugin.evaluation.benchmarks.circo import CIRCO
    from rtd_plugin.evaluation.benchmarks.cirr import CIRR
    from rtd_plugin.evaluation.benchmarks.fashioniq import FashionIQ
    from rtd_plugin.evaluation.benchmarks.folder import Folder
    from rtd_plugin.evaluation.benchmarks.genecis import GeneCIS
    from rtd_plugin.evaluation.benchmarks.pinpoint import PinPoint

    return [CIRR, CIRCO, FashionIQ, GeneCIS, PinPoint, Folder]

"""The public names of a plugin's author: hooks, adapters, composition points, shims, triplet sources, benchmarks.

Each name is imported when it is first used, so importing this package loads no torch. `since` in a hook's docstring is
the version that introduced it.

>>> from rtd_plugin.contract import Prompt
>>> Prompt("a photo of $ that {condition}").placeholder
'$'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtd_plugin.clip.tokens import Prompt
    from rtd_plugin.contract.adapter import Adapter
    from rtd_plugin.contract.composition import Composition, CompositionPoint
    from rtd_plugin.contract.hookspecs import hookimpl
    from rtd_plugin.contract.shims import KnownFault, Report, Shim
    from rtd_plugin.errors import RTDError, UsageError
    from rtd_plugin.evaluation.benchmark import Benchmark, Query
    from rtd_plugin.paths import RecipePath
    from rtd_plugin.triplets.triplet import Triplet, TripletSet, TripletSource

__all__ = [
    "Adapter",
    "Benchmark",
    "Composition",
    "CompositionPoint",
    "KnownFault",
    "Prompt",
    "Query",
    "RTDError",
    "RecipePath",
    "Report",
    "Shim",
    "Triplet",
    "TripletSet",
    "TripletSource",
    "UsageError",
    "hookimpl",
]

_MODULES = {
    "Adapter": "rtd_plugin.contract.adapter",
    "Benchmark": "rtd_plugin.evaluation.benchmark",
    "Composition": "rtd_plugin.contract.composition",
    "CompositionPoint": "rtd_plugin.contract.composition",
    "KnownFault": "rtd_plugin.contract.shims",
    "Prompt": "rtd_plugin.clip.tokens",
    "Query": "rtd_plugin.evaluation.benchmark",
    "RTDError": "rtd_plugin.errors",
    "RecipePath": "rtd_plugin.paths",
    "Report": "rtd_plugin.contract.shims",
    "Shim": "rtd_plugin.contract.shims",
    "Triplet": "rtd_plugin.triplets.triplet",
    "TripletSet": "rtd_plugin.triplets.triplet",
    "TripletSource": "rtd_plugin.triplets.triplet",
    "UsageError": "rtd_plugin.errors",
    "hookimpl": "rtd_plugin.contract.hookspecs",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)

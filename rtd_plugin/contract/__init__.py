"""The public names of a plugin's author: hooks, adapters, composition points, shims, triplet sources, benchmarks.

Each name is imported when it is first used, so importing this package loads no torch. `since` in a hook's docstring is
the version that introduced it.

>>> from rtd_plugin.contract import Prompt
>>> Prompt("a photo of $ that {condition}").placeholder
'$'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtd_plugin.clip.tokens import Prompt
    from rtd_plugin.contract.adapter import Adapter, ProjectionInputs
    from rtd_plugin.contract.composition import Composition, CompositionPoint
    from rtd_plugin.contract.markers import hookimpl
    from rtd_plugin.contract.shims import KnownFault, Report, Shim
    from rtd_plugin.errors import RTDError, UsageError
    from rtd_plugin.evaluation.benchmark import Benchmark, Query
    from rtd_plugin.paths import RecipePath
    from rtd_plugin.search.gallery_store import GalleryStore, Match
    from rtd_plugin.triplets.triplet import Triplet, TripletSet, TripletSource

__all__ = [
    "Adapter",
    "Benchmark",
    "Composition",
    "CompositionPoint",
    "GalleryStore",
    "KnownFault",
    "Match",
    "ProjectionInputs",
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

MODULES = {
    "clip.tokens": ["Prompt"],
    "contract.adapter": ["Adapter", "ProjectionInputs"],
    "contract.composition": ["Composition", "CompositionPoint"],
    "contract.markers": ["hookimpl"],
    "contract.shims": ["KnownFault", "Report", "Shim"],
    "errors": ["RTDError", "UsageError"],
    "evaluation.benchmark": ["Benchmark", "Query"],
    "paths": ["RecipePath"],
    "search.gallery_store": ["GalleryStore", "Match"],
    "triplets.triplet": ["Triplet", "TripletSet", "TripletSource"],
}


def __getattr__(name: str) -> Any:
    for module, names in MODULES.items():
        if name in names:
            return getattr(import_module(f"rtd_plugin.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

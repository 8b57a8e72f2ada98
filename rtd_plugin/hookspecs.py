"""The hooks a plugin can implement: what third parties write against.

A plugin is a module (or any object) under the entry-point group `rtd_plugin`; it marks its functions with
`rtd_plugin.hookimpl`. The adapters, recipes, triplet sources and benchmarks of this repository are plugins like any
other and use these hooks alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from rtd_plugin.adapter import Adapter
    from rtd_plugin.evaluation.benchmark import Benchmark
    from rtd_plugin.triplets.triplet import TripletSource

hookspec = pluggy.HookspecMarker("rtd_plugin")
hookimpl = pluggy.HookimplMarker("rtd_plugin")


@hookspec
def rtd_adapters() -> Iterable[Adapter]:
    """Adapters, one for each method: called once, when a command first asks for an adapter."""


@hookspec
def rtd_recipe_folders() -> Iterable[Path]:
    """Folders of recipes (`NAME.yaml`): called when a recipe is asked for by name or recipes are listed."""


@hookspec
def rtd_triplet_sources() -> Iterable[type[TripletSource]]:
    """Kinds of triplet sources that a recipe can name: called when a recipe is read."""


@hookspec
def rtd_benchmarks() -> Iterable[type[Benchmark]]:
    """Kinds of benchmarks that a recipe can name: called when a recipe is read."""

"""The hooks a plugin can implement: what third parties write against.

A plugin is a module (or any object) under the entry-point group `rtd_plugin`; it marks its functions with
`rtd_plugin.hookimpl`. The adapters, recipes, triplet sources and benchmarks of this repository are plugins like any
other and use these hooks alone. An implementation may leave out arguments that it does not need.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from rtd_plugin.contract.marker import hookimpl as hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from rtd_plugin.clip.tower import TextTower
    from rtd_plugin.contract.adapter import Adapter
    from rtd_plugin.evaluation.benchmark import Benchmark
    from rtd_plugin.patching.manifest import Manifest
    from rtd_plugin.training.losses import StepReport
    from rtd_plugin.training.objective import ObjectiveInputs
    from rtd_plugin.training.run import Run
    from rtd_plugin.triplets.triplet import TripletSource

hookspec = pluggy.HookspecMarker("rtd_plugin")


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
    """Kinds of benchmarks: called when a recipe or the command line names one."""


@hookspec
def rtd_run_started(run: Run, step: int) -> None:
    """A run is about to take its first step, after `step` of them if it resumes: called on the main process."""


@hookspec(firstresult=True)
def rtd_objective(inputs: ObjectiveInputs) -> Tensor | None:
    """The loss of a batch, a scalar: called for every batch on every process; the first result that is not None wins.

    The published objective is the last to be asked.
    """


@hookspec
def rtd_step_ended(run: Run, report: StepReport) -> None:
    """An optimizer step was taken: called on the main process."""


@hookspec
def rtd_validation_due(run: Run, tower: TextTower, step: int) -> Mapping[str, Any] | None:
    """Metrics of the tower as it is after `step` steps, nested as one likes: called on the main process.

    Called when the recipe's `validation` says so, first with the pre-trained tower and `step` 0. The metrics of all
    plugins are put together; `validation.select` can name any of them.
    """


@hookspec
def rtd_checkpoint_saved(run: Run, checkpoint: Path, step: int) -> None:
    """A checkpoint, a folder from which the run can resume, was written: called on the main process."""


@hookspec
def rtd_run_ended(run: Run, results: Mapping[str, Any]) -> None:
    """A run is through, and all its files are written: called on the main process with what `results.json` holds."""


@hookspec
def rtd_host_patched(manifest: Manifest) -> None:
    """A host was patched: called once after `rtd-plugin patch` wrote the patch folder, `manifest.folder`."""

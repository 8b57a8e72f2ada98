"""The hooks a plugin can implement: the interface for third parties.

A plugin is a module (or any object) under the entry-point group `rtd_plugin`; it marks its functions with
`rtd_plugin.contract.hookimpl`. The adapters, recipes, triplet sources and benchmarks of this repository are plugins
like any other and use only these hooks. An implementation may leave out arguments that it does not need.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import click
    from torch import Tensor

    from rtd_plugin.clip.tower import TextTower
    from rtd_plugin.contract.adapter import Adapter
    from rtd_plugin.evaluation.benchmark import Benchmark
    from rtd_plugin.patching.manifest import Manifest
    from rtd_plugin.search.gallery_store import GalleryStore
    from rtd_plugin.training.losses import StepReport
    from rtd_plugin.training.objective import ObjectiveInputs
    from rtd_plugin.training.run import Run
    from rtd_plugin.triplets.triplet import TripletSource

hookspec = pluggy.HookspecMarker("rtd_plugin")


@hookspec
def rtd_adapters() -> Iterable[Adapter]:
    """Return adapters, one instance for each method.

    Called whenever a command looks up or lists adapters. Since 0.1.0.
    """


@hookspec
def rtd_recipe_folders() -> Iterable[Path]:
    """Return folders of recipes (`NAME.yaml`), see `rtd_plugin.contract.recipe_files`.

    Called when a recipe is looked up by name or recipes are listed. Since 0.1.0.
    """


@hookspec
def rtd_triplet_sources() -> Iterable[type[TripletSource]]:
    """Return classes of triplet sources that a recipe can name.

    Called when a recipe is read. Since 0.1.0.
    """


@hookspec
def rtd_benchmarks() -> Iterable[type[Benchmark]]:
    """Return classes of benchmarks.

    Called when a recipe or the command line names one. Since 0.1.0.
    """


@hookspec
def rtd_commands() -> Iterable[click.Command]:
    """Return commands for the command line.

    A command's name is all that comes after `rtd-plugin`: `label`, or `triplets build` in a group. Those that
    rtd-plugin has cannot be replaced. Called when the help of a group is printed, or a command is not one of
    rtd-plugin's own. Since 0.1.0.
    """


@hookspec(firstresult=True)
def rtd_gallery_store(path: str) -> GalleryStore | None:
    """Return the gallery at a path, or None if the path does not end as this store's do.

    Called with the path or URI of an index that is built or searched, which may not exist yet. The first result that
    is not None is used. Since 0.1.0.
    """


@hookspec
def rtd_run_started(run: Run, step: int) -> None:
    """Handle the start of a run, before its first step, or before the step after `step` if the run resumes.

    Called on the main process. Since 0.1.0.
    """


@hookspec(firstresult=True)
def rtd_objective(inputs: ObjectiveInputs) -> Tensor | None:
    """Return the loss of a batch, a scalar, instead of the published objective's.

    Called for every batch on every process. The first result that is not None is used; if there is none, the published
    objective is. Since 0.1.0.
    """


@hookspec
def rtd_step_ended(run: Run, report: StepReport) -> None:
    """Handle the end of an optimizer step.

    Called on the main process. Since 0.1.0.
    """


@hookspec
def rtd_validation_due(run: Run, tower: TextTower, step: int) -> Mapping[str, Any] | None:
    """Return metrics of the tower after `step` steps, nested in any way.

    Called on the main process as often as the recipe's `validation` says, first with the pre-trained tower and `step`
    0. The metrics of all plugins are merged; `validation.select` can name any of them. Since 0.1.0.
    """


@hookspec
def rtd_checkpoint_saved(run: Run, checkpoint: Path, step: int) -> None:
    """Handle a new checkpoint, a folder from which the run can resume.

    Called on the main process. Since 0.1.0.
    """


@hookspec
def rtd_run_ended(run: Run, results: Mapping[str, Any]) -> None:
    """Handle the end of a run, after all its files were written.

    Called on the main process with the contents of `results.json`. Since 0.1.0.
    """


@hookspec
def rtd_host_patched(manifest: Manifest) -> None:
    """Handle a newly patched host.

    Called once after `rtd-plugin patch` wrote the patch folder, `manifest.folder`. Since 0.1.0.
    """

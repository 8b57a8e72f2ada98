"""What `rtd-plugin train` does: finds or makes the run, trains, and evaluates what came of it."""

import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from rtd_plugin import hookimpl
from rtd_plugin.cache import cache_folder
from rtd_plugin.cli.console import err, progress
from rtd_plugin.cli.shell import quote
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.contract import plugins
from rtd_plugin.errors import UsageError
from rtd_plugin.evaluation.benchmark import Benchmark
from rtd_plugin.evaluation.comparison import compare
from rtd_plugin.evaluation.image_features import ImageFeatures
from rtd_plugin.evaluation.retrieval import Retrieval
from rtd_plugin.files import write_text
from rtd_plugin.progress import Advance
from rtd_plugin.training.batches import BatchOrder
from rtd_plugin.training.loop import Interrupted, StepReport, make_accelerator, selected, train
from rtd_plugin.training.recipe import find_recipe, read_recipe
from rtd_plugin.training.run import RECIPE_FILE, Run, load_run, resumed_recipe, write_recipe
from rtd_plugin.workflows.folders import make_folder

RUNS = Path("runs")
RESULTS_FILE = "results.json"


def train_run(
    adapter: str | None, recipe: str | None, overrides: Sequence[str], output: Path | None, resume: bool
) -> dict[str, Any] | None:
    """Train as the options of `rtd-plugin train` say.

    Returns:
        What the run's `results.json` holds; None on all processes but the main one.

    Raises:
        RTDError: the options, the recipe or a file it names is wrong; the run was interrupted.
    """
    began = time.monotonic()
    name = _recipe_name(adapter, recipe)
    folder = output or (_newest_run(name) if resume else None)
    goes_on = folder is not None and _holds_run(folder)
    if goes_on and not resume:
        raise UsageError(f"{folder}: already holds a run: pass --resume to go on with it, or another --output")
    if goes_on:
        settings = resumed_recipe(folder, overrides, adapter)
    elif name is None:
        raise UsageError("there is no run to resume: pass --adapter NAME for its miniature, or --recipe NAME|FILE")
    else:
        settings = read_recipe(find_recipe(recipe or name), overrides, adapter)

    accelerator = make_accelerator(settings)
    main = accelerator.is_main_process
    if main and resume:
        err().print(f"Going on with {folder}." if goes_on else "No run to resume: starting anew.", soft_wrap=True)
    # One process makes the folder for all; of several runs that look for a free name at once, each gets its own.
    folder = Path(broadcast_object_list([str(make_folder(folder, RUNS, name)) if main else None])[0])
    with _removed_if_empty(folder):
        with progress("Tokenising triplets", shown=main) as tokenised:
            run = load_run(settings, folder, tokenised)
        # What else the loop would only find wrong once there is a run on disk that nobody wants to resume.
        BatchOrder(len(run.triplets), settings.batch_size, settings.shuffle, 0, processes=accelerator.num_processes)
        validation = evaluation = None
        if main:
            if run.skipped:
                err().print(f"Left out {run.skipped} broken records of {run.skipped + len(run.triplets)}.")
            validated = settings.validation.benchmark if settings.validation else None
            validation = _retrieval(run, validated, accelerator.device)
            if validation is not None:
                selected(validation.rank_by_image().compute_metrics(), settings.validation.select)
            same = settings.evaluation == validated
            evaluation = validation if same else _retrieval(run, settings.evaluation, accelerator.device)
            if evaluation is not None:
                evaluation.rank_by_image().compute_metrics()
            write_recipe(settings, folder)
        accelerator.wait_for_everyone()

    with progress("Training", shown=main) as advance:
        try:
            with plugins.use_plugins(ProgressBar(advance), *([BenchmarkValidation(validation)] if validation else [])):
                tower, step = train(run, accelerator)
        except Interrupted as error:
            again = f"rtd-plugin train --resume --output {quote(str(folder))}"
            raise Interrupted(f"{error}: {again}") from error
    if not main:
        return None
    run.save(tower, step)
    comparison = compare(evaluation, run.tower, {run.text_encoder: lambda: tower}) if evaluation else None
    result = {
        "run": str(folder),
        "text_encoder": str(run.text_encoder),
        "adapter": run.adapter.name,
        "step": step,
        "triplets": len(run.triplets),
        "skipped": run.skipped,
        "seconds": round(time.monotonic() - began, 1),
        "evaluation": comparison.to_dict() if comparison else None,
    }
    write_text(folder / RESULTS_FILE, json.dumps(result, indent=2) + "\n")
    plugins.get_plugin_manager().hook.rtd_run_ended(run=run, results=result)
    return result


@dataclass(frozen=True)
class ProgressBar:
    """The plugin that shows how far a run is."""

    advance: Advance

    @hookimpl
    def rtd_step_ended(self, run: Run, report: StepReport) -> None:
        note = f"loss {report.loss:.3f}, {report.triplets_per_second:.0f} triplets/s"
        self.advance(report.step, run.recipe.steps, note)


@dataclass(frozen=True)
class BenchmarkValidation:
    """The plugin that runs the benchmark of a recipe's `validation`."""

    retrieval: Retrieval

    @hookimpl
    def rtd_validation_due(self, tower: TextTower) -> dict[str, Any]:
        return self.retrieval.rank_composed(tower).compute_metrics()


def _recipe_name(adapter: str | None, recipe: str | None) -> str | None:
    """How the recipe is called, by default the adapter's miniature; None if neither is given."""
    if adapter is not None:
        plugins.find_adapter(adapter)
    if recipe is not None:
        return Path(recipe).stem if recipe.endswith((".yaml", ".yml")) else recipe
    if adapter is None:
        return None
    if f"{adapter}-miniature" not in plugins.list_recipes():
        raise UsageError(f"no plugin brings a miniature of {adapter}: pass --recipe NAME|FILE")
    return f"{adapter}-miniature"


def _holds_run(folder: Path) -> bool:
    if (folder / RECIPE_FILE).is_file():
        return True
    if (folder / "checkpoints").exists():
        raise UsageError(f"{folder}: holds checkpoints without their {RECIPE_FILE}: pass another --output")
    return False


def _newest_run(name: str | None) -> Path | None:
    """The run of a recipe that was last started or resumed, of any recipe if no name is given."""
    named = re.compile(rf"{re.escape(name)}(-\d+)?" if name else ".*")
    recipes = [path for path in RUNS.glob(f"*/{RECIPE_FILE}") if named.fullmatch(path.parent.name)]
    return max(recipes, key=lambda path: path.stat().st_mtime).parent if recipes else None


@contextmanager
def _removed_if_empty(folder: Path) -> Iterator[None]:
    """A run that could not even be loaded leaves nothing behind."""
    try:
        yield
    finally:
        with suppress(OSError):  # it is not empty: the run began
            folder.rmdir()


def _retrieval(run: Run, benchmark: Benchmark | None, device: Any) -> Retrieval | None:
    """A benchmark with its images encoded."""
    if benchmark is None:
        return None
    images = ImageFeatures(run.recipe.backbone.load_image_encoder(), device=device, folder=cache_folder())
    with progress("Encoding images") as advance:
        return Retrieval(benchmark, run.adapter, images, run.projection, advance)

"""Train a run: load what its recipe names, tune the text encoder, evaluate it, and describe it in a model card."""

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from rtd_plugin.cache import cache_folder
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.contract import hookimpl, plugins
from rtd_plugin.engine.build import build_engine
from rtd_plugin.errors import RTDError, UsageError
from rtd_plugin.evaluation.benchmark import Benchmark
from rtd_plugin.evaluation.comparison import compare
from rtd_plugin.evaluation.image_features import ImageFeatures
from rtd_plugin.evaluation.metrics import PerQueryMetrics
from rtd_plugin.evaluation.retrieval import Retrieval
from rtd_plugin.files import write_text
from rtd_plugin.printable import count_noun
from rtd_plugin.progress import Advance, Progress, ignore_progress, no_progress
from rtd_plugin.training import loop
from rtd_plugin.training.checkpoints import CheckpointStore
from rtd_plugin.training.held_out import HeldOutTriplets
from rtd_plugin.training.losses import StepReport
from rtd_plugin.training.metrics import select_metric
from rtd_plugin.training.order import BatchOrder
from rtd_plugin.training.plain import BuildEngine, build_plain
from rtd_plugin.training.rate_search import describe_search, search_rate
from rtd_plugin.training.recipe import Recipe
from rtd_plugin.training.run import Run, load_run, write_recipe
from rtd_plugin.workflows.folders import lock_folder, make_folder
from rtd_plugin.workflows.model_card import write_model_card
from rtd_plugin.workflows.run_report import REPORT_FILE, write_run_report
from rtd_plugin.workflows.runs import RUNS, RecipeLike, RunChoice, choose_run, holds_run
from rtd_plugin.workflows.verdict import Measure, describe_verdict, find_loss, find_remarks, measure_gain

RESULTS_FILE = "results.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """A finished run.

    Attributes:
        folder: of the run: recipe, metrics, checkpoints, results, model card and text encoder.
        text_encoder: file of the tuned text encoder, for `rtd_plugin.load_text_encoder`.
        adapter: name of the method.
        step: optimizer steps that the text encoder has taken: the last, or the best by the recipe's validation.
        triplets: how many an epoch of the run has.
        skipped: broken records that the triplet sources left out.
        seconds: from start to end.
        validation: before and after by the metric that selects, on the recipe's validation, as `measure_gain` gives it;
            None without one, or if a plugin computes that metric.
        evaluation: before and after on the recipe's `evaluation` as `rtd_plugin.evaluate` gives it, None without one.
        search: of the learning rate, as `rtd_plugin.training.rate_search.describe_search` gives it; None without one.
        verdict: a sentence on whether tuning helps, by validation or else by evaluation; None without both.
        warning: the verdict, if validation does not show that tuning helps, or evaluation shows that it does harm.
        remarks: sentences on choices that were the best at the end of what was tried.
        report: a page with the verdict, its figures and the search; None without validation and evaluation.
    """

    folder: Path
    text_encoder: Path
    adapter: str
    step: int
    triplets: int
    skipped: int
    seconds: float
    validation: dict[str, Any] | None
    evaluation: dict[str, Any] | None
    search: dict[str, Any] | None
    verdict: str | None
    warning: str | None
    remarks: list[str]
    report: Path | None

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values: what `results.json` holds and `rtd-plugin train --json` prints."""
        values = {**vars(self), "run": str(self.folder), "text_encoder": str(self.text_encoder)}
        values["report"] = None if self.report is None else str(self.report)
        del values["folder"]
        return values


class InterruptedRun(RTDError):
    """Ctrl-C or SIGTERM stopped a run, which can resume.

    Attributes:
        folder: of the run.
    """

    def __init__(self, message: str, folder: Path):
        super().__init__(message)
        self.folder = folder


def train(
    recipe: RecipeLike | None = None,
    *,
    adapter: str | None = None,
    overrides: Sequence[str] = (),
    output: str | Path | None = None,
    resume: bool = False,
    progress: Progress = no_progress,
) -> TrainingResult | None:
    """Tune CLIP's text encoder for composed queries, on text triplets alone: what `rtd-plugin train` does.

    >>> import rtd_plugin
    >>> result = rtd_plugin.train("lincir-miniature", overrides=["steps=5", "triplets.0.count=1000"])
    >>> result.step
    5
    >>> tower = rtd_plugin.load_text_encoder(result.folder)

    Args:
        recipe: a recipe's name or file, or its keys and values; paths in these are relative to the current folder.
            None: the miniature of `adapter`, or with `resume` the run to resume.
        adapter: replaces the recipe's adapter.
        overrides: keys of the recipe with their values in YAML, such as `"optimizer.learning_rate=1e-4"`.
        output: the run's folder. None: a new one in `runs`, or with `resume` the recipe's newest run there.
        resume: continue from the latest checkpoint, if there is a run.
        progress: shows the progress, see `rtd_plugin.progress.Progress`.

    Returns:
        The finished run; None on all processes but the main one.

    Raises:
        UsageError: an argument or the recipe is wrong.
        InterruptedRun: Ctrl-C or SIGTERM came while it trained.
        RTDError: a file is missing, broken or does not fit the others; another process trains this run; the loss is
            not a number.
    """
    began = time.monotonic()
    choice = choose_run(recipe, adapter, overrides, Path(output) if output is not None else None, resume)
    accelerator = loop.make_accelerator(choice.recipe)
    if not accelerator.is_main_process:
        _train_helper(choice, accelerator)
        return None
    if resume:
        log.info(f"Resuming {choice.folder}." if choice.resumes else "No run to resume: starting a new one.")
    folder = make_folder(choice.folder, RUNS, choice.name)
    with lock_folder(folder):
        if holds_run(folder) != choice.resumes:
            raise UsageError(f"{folder}: another process began a run here: pass another --output")
        broadcast_object_list([str(folder)])
        run = _load_run(choice.recipe, folder, accelerator, progress)
        if run.skipped:
            records = count_noun(run.skipped + run.triplets.records, "record")
            log.warning(f"Left out {run.skipped:,} broken of {records}.")
        measure, control, evaluation = _prepare_measures(run, accelerator, progress)
        write_recipe(run.recipe, folder)
        accelerator.wait_for_everyone()
        watchers = [Validation(measure)] if measure else []
        if run.recipe.optimizer.is_searched:
            with progress("Searching for a learning rate") as advance:
                run = _search_rate(run, watchers, advance)
        with progress("Training") as advance:
            tower, step = _tune(run, [TrainingProgress(advance), *watchers])
        run.save(tower, step)
        validation = measure_gain(run, measure, tower, control) if measure else None
        comparison = None
        if evaluation is not None:
            with progress("Evaluating") as advance:
                comparison = compare(evaluation, run.tower, {run.text_encoder: lambda: tower}, advance).to_dict()
        warning = find_loss(validation, comparison)
        if warning is not None:
            log.warning("%s.", warning)
        search, verdict = describe_search(folder), describe_verdict(validation, comparison)
        result = TrainingResult(
            folder=folder,
            text_encoder=run.text_encoder,
            adapter=run.adapter.name,
            step=step,
            triplets=len(run.triplets),
            skipped=run.skipped,
            seconds=round(time.monotonic() - began, 1),
            validation=validation,
            evaluation=comparison,
            search=search,
            verdict=verdict,
            warning=warning,
            remarks=find_remarks(run.recipe, step, search),
            report=None if verdict is None else folder / REPORT_FILE,
        )
        if verdict is not None:
            write_run_report(run, result.to_dict())
        write_text(folder / RESULTS_FILE, json.dumps(result.to_dict(), indent=2) + "\n")
        write_model_card(run, step, validation, comparison, search)
        plugins.get_plugin_manager().hook.rtd_run_ended(run=run, results=result.to_dict())
    return result


def _train_helper(choice: RunChoice, accelerator: Accelerator) -> None:
    """Run training on a process other than the main one."""
    (folder,) = broadcast_object_list([None])
    run = _load_run(choice.recipe, Path(folder), accelerator, no_progress)
    accelerator.wait_for_everyone()
    if run.recipe.optimizer.is_searched:
        run = _search_rate(run, [], ignore_progress)
    _tune(run, [])


def _load_run(recipe: Recipe, folder: Path, accelerator: Accelerator, progress: Progress) -> Run:
    with progress("Tokenising triplets") as advance:
        run = load_run(recipe, folder, advance)
    # Refuse a wrong batch size before a run that cannot be resumed is on disk.
    began_with = CheckpointStore(folder, recipe.checkpoints.keep).find_processes()
    BatchOrder(len(run.triplets), recipe.batch_size, recipe.shuffle, 0, began_with or accelerator.num_processes)
    return run


def _search_rate(run: Run, watchers: Sequence[object], advance: Advance) -> Run:
    with _watch(run, watchers):
        return search_rate(run, _choose_engine(run), advance)


def _tune(run: Run, watchers: Sequence[object]) -> tuple[TextTower, int]:
    with _watch(run, watchers):
        return loop.train(run, loop.make_accelerator(run.recipe), _choose_engine(run))


def _choose_engine(run: Run) -> BuildEngine:
    return build_engine if run.recipe.engine == "fast" else build_plain


@contextmanager
def _watch(run: Run, watchers: Sequence[object]) -> Iterator[None]:
    """Register plugins within the block, and name the run that an interrupt ends."""
    try:
        with plugins.use_plugins(*watchers):
            yield
    except loop.Interrupted as error:
        raise InterruptedRun(str(error), run.folder) from error


def _prepare_measures(
    run: Run, accelerator: Accelerator, progress: Progress
) -> tuple[Measure | None, Measure | None, Retrieval | None]:
    """Encode what the recipe's validation and evaluation need, and compute a metric of each to see that it works.

    The second measure is the control of held-out triplets: with swapped conditions.

    Raises:
        RTDError: an image is missing, targets are not known, or validation selects by a metric that does not exist.
    """

    def encode(benchmark: Benchmark) -> Retrieval:
        images = ImageFeatures(
            run.recipe.backbone.load_image_encoder(), device=accelerator.device, folder=cache_folder()
        )
        with progress("Encoding images") as advance:
            return Retrieval(benchmark, run.adapter, images, run.projection, run.tower, advance)

    settings, measure, control, retrieval = run.recipe.validation, None, None, None
    if run.held_out is not None:
        measure = HeldOutTriplets(run, run.held_out, accelerator.device).measure
        control = partial(measure, swapped=True)
    elif settings is not None and settings.benchmark is not None:
        retrieval = encode(settings.benchmark)
        select_metric(retrieval.rank_by_image().compute_metrics(), settings.select)
        measure = partial(_measure_retrieval, retrieval)
    if run.recipe.evaluation is None:
        return measure, control, None
    if settings is None or run.recipe.evaluation != settings.benchmark:
        retrieval = encode(run.recipe.evaluation)
        retrieval.rank_by_image().compute_metrics()
    return measure, control, retrieval


def _measure_retrieval(retrieval: Retrieval, tower: TextTower) -> PerQueryMetrics:
    per_query = retrieval.rank_composed(tower).per_query
    assert per_query is not None  # secret targets are refused before
    return per_query


@dataclass(frozen=True)
class TrainingProgress:
    """The plugin that shows the progress of a run."""

    advance: Advance

    @hookimpl
    def rtd_step_ended(self, run: Run, report: StepReport) -> None:
        """Show the step, the loss and the speed."""
        note = f"loss {report.loss:.3f}, {report.triplets_per_second:.0f} triplets/s"
        self.advance(report.step, run.recipe.steps, note)


@dataclass(frozen=True)
class Validation:
    """The plugin that measures what the recipe's `validation` names."""

    measure: Measure

    @hookimpl
    def rtd_validation_due(self, tower: TextTower) -> dict[str, Any]:
        """Return the metrics with this tower."""
        return self.measure(tower).compute_metrics()

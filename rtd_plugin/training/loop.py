"""The training loop: steps, validation, checkpoints, interrupts."""

import os
import time
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers

from rtd_plugin.clip.tower import TextTower
from rtd_plugin.contract.plugins import get_plugin_manager
from rtd_plugin.errors import RTDError
from rtd_plugin.training.checkpoints import Best, CheckpointStore, Progress
from rtd_plugin.training.interrupts import interrupts
from rtd_plugin.training.metrics import METRICS_FILE, MetricsLog, flat, merged, selected
from rtd_plugin.training.recipe import Recipe
from rtd_plugin.training.run import Run
from rtd_plugin.training.step import Stepper, learning_rate

ACCELERATE_PRECISION = {"fp16": "fp16", "bf16": "bf16", "fp32": "no"}


class Interrupted(RTDError):
    """The run was told to stop, and left a checkpoint to resume from."""


@dataclass(frozen=True)
class StepReport:
    """What plugins are told after each step.

    Attributes:
        step: optimizer steps taken.
        loss: the mean over the step's batches on all processes.
        triplets_per_second: of all processes together.
    """

    step: int
    loss: float
    triplets_per_second: float


def make_accelerator(recipe: Recipe) -> Accelerator:
    """Device, precision, processes and tracker of one run.

    Raises:
        RTDError: this machine lacks the precision or the tracker.
    """
    if recipe.precision == "fp16" and not torch.cuda.is_available():
        raise RTDError("precision fp16 needs a GPU, and there is none here: pass --set precision=bf16 or fp32")
    if recipe.tracker is not None and recipe.tracker not in map(str, get_available_trackers()):
        raise RTDError(f"the tracker {recipe.tracker} is not installed: pip install {recipe.tracker}")
    # accelerate keeps the first precision that a process asks for, and refuses another; here each run has its own.
    AcceleratorState._reset_state()
    # Unless told to use the CPU, accelerate takes each of several processes without a GPU for one on its own.
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    try:
        return Accelerator(
            mixed_precision=ACCELERATE_PRECISION[recipe.precision],
            cpu=several and not torch.cuda.is_available(),
            log_with=recipe.tracker,
            project_dir=".",  # a tracker wants one from the start; `train` sets the run's folder
        )
    except (ValueError, ImportError) as error:
        raise RTDError(f"this machine cannot run the recipe: {error}") from error


def train(run: Run, accelerator: Accelerator) -> tuple[TextTower, int]:
    """Tune the run's text tower, going on from its latest checkpoint if it has one.

    Hooks of plugins are called (`rtd_plugin.contract.hookspecs`). Validation, if the recipe has it, begins with the
    pre-trained tower, whose metrics are logged as step 0 and never the best.

    Args:
        run: what to train on; `run.tower` stays as it is.
        accelerator: from `make_accelerator`, for this run alone.

    Returns:
        The tuned tower on the CPU, and the step it is from: the last one, or the best by the recipe's validation.

    Raises:
        Interrupted: Ctrl-C or SIGTERM came; there is a checkpoint of the last finished step.
        RTDError: the loss is not a number; a checkpoint cannot be written, or is of another run; a plugin failed.
    """
    recipe, main, hook = run.recipe, accelerator.is_main_process, get_plugin_manager().hook
    stepper = Stepper(run, accelerator)
    tower, optimizer, scaler = stepper.tower, stepper.optimizer, accelerator.scaler
    store = CheckpointStore(run.folder, recipe.checkpoints.keep)
    saved = store.progress()
    progress = _progress(run, accelerator.num_processes, saved)
    if saved is not None:
        stepper.resume(store, progress.step)
    log = MetricsLog(run.folder / METRICS_FILE, progress.step if saved else None, accelerator)
    accelerator.project_configuration.logging_dir = str(run.folder / (recipe.tracker or ""))
    accelerator.init_trackers("rtd-plugin", config=dict(flat(recipe.to_dict())))

    def validated() -> float:
        metrics = merged(hook.rtd_validation_due(run=run, tower=tower, step=progress.step))
        log.write(progress.step, validation=metrics)
        return selected(metrics, recipe.validation.select)

    validates = main and recipe.validation is not None
    try:
        with interrupts() as interrupted:
            if main:
                hook.rtd_run_started(run=run, step=progress.step)
            if validates and saved is None:
                validated()  # a wrong name of a metric, or a missing image, shows now and not after hours
            while progress.step < recipe.steps:
                began = time.perf_counter()
                rate = learning_rate(progress.step, recipe.steps, recipe.optimizer)
                loss = stepper.take(progress.step, rate)
                progress.step += 1
                speed = stepper.triplets / (time.perf_counter() - began)
                log.write(progress.step, loss=loss, learning_rate=rate, triplets_per_second=speed)

                last = progress.step == recipe.steps
                due = last or progress.step % recipe.checkpoints.every == 0
                if main:
                    hook.rtd_step_ended(run=run, report=StepReport(progress.step, loss, speed))
                if validates and (last or progress.step % recipe.validation.every == 0):
                    value = validated()
                    if progress.best is None or value > progress.best.value:
                        progress.best = Best(step=progress.step, value=value, validation=_measure(recipe))
                        due = True  # the best tower is kept as a checkpoint like any other
                stop = _any_process(accelerator, interrupted())
                if main and (due or stop):
                    store.save(progress, tower, optimizer, scaler)
                    checkpoint = store.path(progress.step)
                    hook.rtd_checkpoint_saved(run=run, checkpoint=checkpoint, step=progress.step)
                if stop and not last:
                    raise Interrupted(
                        f"interrupted after step {progress.step} of {recipe.steps}; {run.folder} can resume"
                    )
    finally:
        accelerator.end_training()

    tower = stepper.tuned()
    if main and progress.best is not None and progress.best.step != progress.step:
        tower.load_state_dict(store.tower(progress.best.step))
        return tower, progress.best.step
    return tower, progress.step


def _progress(run: Run, processes: int, saved: Progress | None) -> Progress:
    """Where the run stands, after a look whether the checkpoint is of this run.

    Raises:
        RTDError: it is not.
    """
    now = Progress(
        processes=processes,
        base_digest=run.base_digest,
        projection_digest=run.projection_digest,
        triplet_digests=run.triplet_digests,
    )
    if saved is None:
        return now
    for key, what in {
        "base_digest": "backbone",
        "projection_digest": "projection",
        "triplet_digests": "triplets",
    }.items():
        if getattr(saved, key) != getattr(now, key):
            raise RTDError(f"{run.folder}: cannot resume: the {what} files changed since the run began")
    if saved.processes != processes:
        raise RTDError(
            f"{run.folder}: began with {saved.processes} process(es), so it cannot resume with {processes}: "
            "each would see other triplets"
        )
    same_best = saved.best is not None and saved.best.validation == _measure(run.recipe)
    return saved if same_best else saved.model_copy(update={"best": None})


def _measure(recipe: Recipe) -> dict[str, Any] | None:
    """What validation measures, whenever it does."""
    if recipe.validation is None:
        return None
    return {key: value for key, value in recipe.validation.model_dump(mode="json").items() if key != "every"}


def _any_process(accelerator: Accelerator, flag: bool) -> bool:
    """Whether it is so on any process; all of them wait here for the main one."""
    if accelerator.num_processes == 1:
        return flag
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), "sum").item())

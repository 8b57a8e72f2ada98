"""The training loop: steps, validation, checkpoints, interrupts."""

import logging
import os
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import DDPCommunicationHookType, DistributedDataParallelKwargs

from rtd_plugin.clip.tower import TextTower
from rtd_plugin.contract.plugins import get_plugin_manager
from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation.metrics import is_lower_better
from rtd_plugin.training.checkpoints import Best, BrokenCheckpoint, CheckpointStore, RunProgress
from rtd_plugin.training.interrupts import catch_interrupts
from rtd_plugin.training.losses import PendingLosses
from rtd_plugin.training.metrics import METRICS_FILE, MetricsLog, flatten, merge_metrics, select_metric
from rtd_plugin.training.plain import BuildEngine, build_plain
from rtd_plugin.training.recipe import Recipe
from rtd_plugin.training.run import Run
from rtd_plugin.training.trainer import Trainer

_log = logging.getLogger(__name__)

ACCELERATE_PRECISION = {"fp16": "fp16", "bf16": "bf16", "fp32": "no"}
GRADIENT_HOOKS = {"fp32": DDPCommunicationHookType.NO, "bf16": DDPCommunicationHookType.BF16}


class Interrupted(RTDError):
    """A signal stopped the run, which left a checkpoint to resume from."""


def make_accelerator(recipe: Recipe) -> Accelerator:
    """Return the Accelerator of a run: device, precision, processes and tracker.

    Raises:
        RTDError: this machine lacks the precision or the tracker.
    """
    if recipe.precision == "fp16" and not torch.cuda.is_available():
        raise RTDError("precision fp16 needs a GPU, and torch sees none: pass --set precision=bf16 or fp32")
    if recipe.precision == "bf16" and torch.cuda.is_available() and not _has_bf16():
        raise RTDError(f"precision bf16: {torch.cuda.get_device_name()} lacks it: pass --set precision=fp16 or fp32")
    if recipe.tracker is not None and recipe.tracker not in map(str, get_available_trackers()):
        raise RTDError(f"the tracker {recipe.tracker} is not installed: pip install {recipe.tracker}")
    # accelerate keeps the first precision that a process asks for, and refuses another; here each run has its own.
    AcceleratorState._reset_state()
    # Without cpu=True, accelerate treats each of several processes without a GPU as a separate run.
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    try:
        return Accelerator(
            mixed_precision=ACCELERATE_PRECISION[recipe.precision],
            cpu=several and not torch.cuda.is_available(),
            log_with=recipe.tracker,
            project_dir=".",  # required by trackers; `train` sets the run's folder
            kwargs_handlers=[
                DistributedDataParallelKwargs(
                    gradient_as_bucket_view=True,  # stores gradients once, without a copy
                    comm_hook=GRADIENT_HOOKS[recipe.gradient_precision],
                )
            ],
        )
    except (ValueError, ImportError) as error:
        raise RTDError(f"this machine cannot run the recipe: {error}") from error


def _has_bf16() -> bool:
    # torch emulates bf16 on older GPUs, more slowly than fp32.
    return torch.cuda.is_bf16_supported(including_emulation=False)


def train(
    run: Run, accelerator: Accelerator, build: BuildEngine = build_plain, until: int | None = None
) -> tuple[TextTower, int]:
    """Tune the run's text tower, from its latest checkpoint that can be read if it has one.

    Hooks of plugins are called (`rtd_plugin.contract.hookspecs`). Validation, if the recipe has it, begins with the
    pre-trained tower, whose metrics are logged as step 0 and are never the best.

    Args:
        run: what to train on; `run.tower` is not changed.
        accelerator: from `make_accelerator`, for this run alone.
        build: the engine; `rtd_plugin.engine.build.build_engine` is the fast one.
        until: the step to stop after, with a checkpoint from which the run can go on; None for the recipe's last.

    Returns:
        The tuned tower on the CPU, and the step it is from: the last one, or the best by the recipe's validation.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; there is a checkpoint of the last finished step.
        Diverged: the loss or a weight is not finite.
        RTDError: a checkpoint cannot be written, or is of another run; a plugin
            failed.
    """
    recipe, main, hook = run.recipe, accelerator.is_main_process, get_plugin_manager().hook
    store = CheckpointStore(run.folder, recipe.checkpoints.keep)
    run = replace(run, began_with=store.find_processes() or run.began_with)
    trainer = Trainer(run, accelerator, build)
    saved = _resume(run, trainer, store)
    progress = saved or _describe_run(run, run.began_with or accelerator.num_processes)
    if main and saved is not None:
        store.remove_old(saved)
    log = MetricsLog(run.folder / METRICS_FILE, progress.step if saved else None, accelerator)
    accelerator.project_configuration.logging_dir = str(run.folder / (recipe.tracker or ""))
    accelerator.init_trackers("rtd-plugin", config=dict(flatten(recipe.to_dict())))

    def validate(select: str) -> float:
        metrics = merge_metrics(hook.rtd_validation_due(run=run, tower=trainer.tower, step=progress.step))
        log.write(progress.step, validation=metrics)
        return select_metric(metrics, select)

    validation, end = recipe.validation if main else None, until or recipe.steps
    try:
        with catch_interrupts() as is_interrupted:
            losses = PendingLosses(run, trainer, log, is_interrupted)
            if main:
                hook.rtd_run_started(run=run, step=progress.step)
            if validation is not None and saved is None:
                validate(validation.select)  # an unknown metric or a missing image fails here, and not after hours
            while progress.step < end:
                losses.take_step(progress.step)
                progress.step += 1
                last = progress.step == end
                validation_due = _is_validation_due(recipe, progress.step)
                checkpoint_due = last or progress.step % recipe.checkpoints.every == 0
                stop = losses.read(now=validation_due or checkpoint_due)
                if validation_due or checkpoint_due or stop:
                    trainer.check_weights(progress.step)
                if validation is not None and validation_due:
                    value = validate(validation.select)
                    sign = -1 if is_lower_better(validation.select) else 1
                    if progress.best is None or sign * value > sign * progress.best.value:
                        progress.best = Best(step=progress.step, value=value, validation=_describe_validation(recipe))
                        checkpoint_due = True  # the best tower is kept as a checkpoint like any other
                if main and (checkpoint_due or stop):
                    store.save(progress, trainer.tower, trainer.optimizer, accelerator.scaler)
                    checkpoint = store.path(progress.step)
                    hook.rtd_checkpoint_saved(run=run, checkpoint=checkpoint, step=progress.step)
                if last and accelerator.num_processes == 1:
                    stop = stop or is_interrupted()  # while the checkpoint was written: there is no next step to see it
                if stop and progress.step < recipe.steps:
                    raise Interrupted(
                        f"interrupted after step {progress.step} of {recipe.steps}; {run.folder} can resume"
                    )
    finally:
        if until is None:  # it also ends the processes' connection, which a run that goes on needs
            accelerator.end_training()

    tower = trainer.copy_tower()
    if main and progress.best is not None and progress.best.step != progress.step:
        tower.load_state_dict(store.read_tower(progress.best.step))
        return tower, progress.best.step
    return tower, progress.step


def _resume(run: Run, trainer: Trainer, store: CheckpointStore) -> RunProgress | None:
    """Load the latest checkpoint that can be read; return the progress at it, None without any checkpoint.

    Raises:
        RTDError: none of the checkpoints can be read, or they are of another run.
    """
    warn = _log.warning if trainer.accelerator.is_main_process else _log.debug
    steps = store.list_steps()[::-1]
    for index, step in enumerate(steps, start=1):
        try:
            progress = store.read_progress(step)
            _check_same_run(run, progress)
            trainer.resume(store, step)
        except BrokenCheckpoint as error:
            if index == len(steps):
                raise RTDError(f"{error}, and no earlier checkpoint: start a new run with another --output") from error
            warn("%s: resuming from the checkpoint before it, %s.", error, store.path(steps[index]))
            continue
        best = progress.best
        if best is not None and best.validation != _describe_validation(run.recipe):
            progress.best = None
        elif best is not None and best.step != step:
            try:
                store.read_tower(best.step)
            except BrokenCheckpoint as error:
                warn("%s: it was the best so far; the best is now chosen among later checkpoints.", error)
                progress.best = None
        return progress
    return None


def _describe_run(run: Run, processes: int) -> RunProgress:
    """Return the progress at the start."""
    return RunProgress(
        processes=processes,
        base_digest=run.base_digest,
        projection_digest=run.projection_digest,
        triplet_digests=run.triplet_digests,
    )


def _check_same_run(run: Run, saved: RunProgress) -> None:
    """Check that a checkpoint is one of this run.

    Raises:
        RTDError: files changed since.
    """
    new = _describe_run(run, saved.processes)
    names = {"base_digest": "backbone", "projection_digest": "projection", "triplet_digests": "triplets"}
    for key, name in names.items():
        if getattr(saved, key) != getattr(new, key):
            raise RTDError(f"{run.folder}: cannot resume: the {name} files changed since the run began")


def _describe_validation(recipe: Recipe) -> dict[str, Any] | None:
    """Return the validation section of a recipe without `every`."""
    if recipe.validation is None:
        return None
    return {key: value for key, value in recipe.validation.model_dump(mode="json").items() if key != "every"}


def _is_validation_due(recipe: Recipe, step: int) -> bool:
    validation = recipe.validation
    return validation is not None and (step == recipe.steps or step % validation.every == 0)

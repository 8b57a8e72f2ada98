"""Takes steps and reads their losses: at once on a CPU, several steps later on a GPU, to avoid waiting for it."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rtd_plugin.contract.plugins import get_plugin_manager
from rtd_plugin.training.metrics import MetricsLog
from rtd_plugin.training.run import Run
from rtd_plugin.training.trainer import ADVICE, Diverged, Trainer, schedule_rate

STEPS_A_READ = {"cpu": 1, "cuda": 10}


@dataclass(frozen=True)
class StepReport:
    """What plugins receive after each step; on a GPU several reports arrive at once.

    Attributes:
        step: optimizer steps taken.
        loss: the mean over the step's batches on all processes.
        triplets_per_second: of all processes together, the mean since the last reading.
    """

    step: int
    loss: float
    triplets_per_second: float


class PendingLosses:
    """Steps whose losses have not been read yet.

    Args:
        run: the run.
        trainer: takes the steps.
        log: gets a line for each step.
        is_interrupted: returns whether this process was interrupted.
    """

    def __init__(self, run: Run, trainer: Trainer, log: MetricsLog, is_interrupted: Callable[[], bool]):
        self._run, self._trainer, self._log, self._is_interrupted = run, trainer, log, is_interrupted
        self._accelerator = trainer.accelerator
        self._steps_a_read = STEPS_A_READ.get(self._accelerator.device.type, 1)
        self._pending: list[tuple[int, float, Tensor]] = []  # step, learning rate, loss
        self._began = 0.0

    def take_step(self, step: int) -> None:
        """Take a step, counted from 0."""
        if not self._pending:
            self._began = time.perf_counter()
        recipe = self._run.recipe
        rate = schedule_rate(step, recipe.steps, recipe.optimizer)
        self._pending.append((step + 1, rate, self._trainer.take_step(step, rate)))

    def read(self, now: bool) -> bool:
        """Read, log and report the pending losses if they are due.

        Args:
            now: read them even if they are not due.

        Returns:
            Whether any process was interrupted; False if nothing was read.

        Raises:
            Diverged: a loss is not finite.
        """
        if not now and len(self._pending) < self._steps_a_read:
            return False
        losses = torch.stack([loss for _, _, loss in self._pending])
        flag = torch.tensor([float(self._is_interrupted())], device=losses.device)
        # One reduction and one synchronisation with the device for all pending losses.
        *means, interrupted = self._accelerator.reduce(torch.cat([losses, flag]), "mean").tolist()
        speed = self._trainer.triplets * len(means) / (time.perf_counter() - self._began)
        pending, self._pending = self._pending, []
        for (step, rate, _), loss in zip(pending, means, strict=True):
            if not math.isfinite(loss):
                raise Diverged(f"the loss is {loss} at step {step}, in {self._name_batches(step)}: {ADVICE}")
            self._log.write(step, loss=loss, learning_rate=rate, triplets_per_second=speed)
            if self._accelerator.is_main_process:
                report = StepReport(step, loss, speed)
                get_plugin_manager().hook.rtd_step_ended(run=self._run, report=report)
        # A single process also stops if a plugin was just interrupted; several processes must agree.
        return interrupted > 0 or (self._accelerator.num_processes == 1 and self._is_interrupted())

    def _name_batches(self, step: int) -> str:
        count = self._trainer.batches
        return f"batch {step}" if count == 1 else f"batches {(step - 1) * count + 1} to {step * count}"

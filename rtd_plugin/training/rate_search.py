"""The choice of a learning rate by the recipe's validation: successive halving, which can resume.

All candidates train for a few steps; the better half goes on for as many steps again, and so on until one is left
(Jamieson and Talwalkar, Non-stochastic Best Arm Identification and Hyperparameter Optimization, AISTATS 2016). It takes
the steps that are left as the run itself, so the run equals one that began with this learning rate, to the last bit.
"""

import math
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from rtd_plugin.contract import plugins
from rtd_plugin.contract.markers import hookimpl
from rtd_plugin.evaluation.metrics import is_lower_better
from rtd_plugin.files import write_text
from rtd_plugin.progress import Advance, ignore_progress
from rtd_plugin.regular_files import read_text
from rtd_plugin.training import loop
from rtd_plugin.training.checkpoints import CheckpointStore
from rtd_plugin.training.losses import StepReport
from rtd_plugin.training.metrics import METRICS_FILE, read_validation
from rtd_plugin.training.plain import BuildEngine
from rtd_plugin.training.rate_trials import (
    SEARCH_FILE,
    SEARCH_FOLDER,
    RateSearch,
    Rung,
    Trial,
    plan_search,
    read_search,
    set_rate,
    trial_folder,
)
from rtd_plugin.training.run import Run, write_recipe
from rtd_plugin.training.trainer import Diverged


def search_rate(run: Run, build: BuildEngine, advance: Advance = ignore_progress) -> Run:
    """Choose a run's learning rate; the state of its trial becomes the state of the run.

    Hooks are called for each trial as for a run of its own, whose folder is in the run's folder; trackers are not.

    Args:
        run: whose recipe has several learning rates, or "auto".
        build: the engine.
        advance: called after each step.

    Returns:
        The run with the chosen learning rate in its recipe, which is written.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; the same call goes on.
        Diverged: with no learning rate are the losses finite.
        RTDError: as `rtd_plugin.training.loop.train`.
    """
    search = _Search(run, build, advance)
    try:
        return search.run_all()
    except BaseException:
        search.accelerator.end_training()
        raise


def describe_search(folder: Path) -> dict[str, Any] | None:
    """Return a finished search in a run's folder as plain values, None if the run has none.

    Returns:
        The `metric` that selects, `before` with the pre-trained text encoder, the chosen `learning_rate`, and `trials`:
        `learning_rate`, `steps`, the best `value` so far, which is None if losses were not finite, and its `step`.
    """
    search = read_search(folder)
    if search is None or search.learning_rate is None:
        return None
    log = trial_folder(folder, search.learning_rate) / METRICS_FILE
    return {
        "metric": search.metric,
        "before": dict(read_validation(log, search.metric))[0],
        "learning_rate": search.learning_rate,
        "trials": [trial.model_dump() for trial in search.trials],
    }


class _Search:
    """The search of one run, on one of its processes."""

    def __init__(self, run: Run, build: BuildEngine, advance: Advance):
        self._plan = plan_search(run.recipe)
        self._build, self._advance = build, advance
        self.accelerator = loop.make_accelerator(run.recipe)
        (saved,) = broadcast_object_list([read_search(run.folder)])
        assert run.recipe.validation is not None
        metric = run.recipe.validation.select
        self._search = saved or RateSearch(
            candidates=run.recipe.optimizer.learning_rate,
            metric=metric,
            every=self._plan.every,
            processes=self.accelerator.num_processes,
        )
        self._run = replace(run, began_with=self._search.processes)
        self._steps, self._all_steps = 0, 0  # finished ones, and those of the rungs so far and to come
        self._sign = -1 if is_lower_better(metric) else 1

    def run_all(self) -> Run:
        candidates = list(self._plan.candidates)
        if self._search.learning_rate is None:
            counts = [len(candidates), *(rung.survivors for rung in self._plan.rungs)]
            self._all_steps = sum(
                count * (rung.steps - rung.start) for count, rung in zip(counts, self._plan.rungs, strict=False)
            )
            for index, rung in enumerate(self._plan.rungs):
                candidates = self._take_rung(rung, candidates, self._plan.higher if index == 0 else ())
            self._search.learning_rate = candidates[0]
            self._write()
            self._advance(self._all_steps, self._all_steps)
        chosen = replace(self._run, recipe=self._search.settle(self._run.recipe))
        if self.accelerator.is_main_process:
            self._adopt(self._run.folder, self._search.learning_rate)
            write_recipe(chosen.recipe, chosen.folder)  # last: from here on the run goes on without a search
        self.accelerator.wait_for_everyone()
        return chosen

    def _take_rung(self, rung: Rung, candidates: list[float], higher: Sequence[float]) -> list[float]:
        """Return the best candidates after a rung's steps, best first; of equal ones the lower is better."""
        higher, finished = list(higher), list[Trial]()
        queue = list(candidates)
        for rate in queue:
            trial = self._search.find(rate, rung.steps)
            if trial is None:
                trial = self._train(rate, rung)
                self._search.trials.append(trial)
                self._write()
            self._steps += rung.steps - rung.start
            finished = sorted([*finished, trial], key=self._rank)
            for loser in finished[rung.survivors :]:
                self._remove_checkpoints(loser.learning_rate)
            is_highest = rate == queue[-1] == finished[0].learning_rate and trial.value is not None
            if is_highest and higher:
                queue.append(higher.pop(0))
                self._all_steps += rung.steps - rung.start
        survivors = [trial.learning_rate for trial in finished[: rung.survivors] if trial.value is not None]
        if not survivors:
            raise Diverged(
                f"the loss is not finite with any of the learning rates {', '.join(f'{rate:g}' for rate in queue)}: "
                "name lower ones, as in optimizer.learning_rate=[1e-8,1e-7]"
            )
        return survivors

    def _rank(self, trial: Trial) -> tuple[float, float]:
        return (math.inf if trial.value is None else -self._sign * trial.value), trial.learning_rate

    def _train(self, rate: float, rung: Rung) -> Trial:
        """Train a candidate up to the end of a rung, from its checkpoint if it has one."""
        recipe = set_rate(self._run.recipe, rate, self._plan.every).model_copy(update={"tracker": None})
        run = replace(self._run, recipe=recipe, folder=trial_folder(self._run.folder, rate))
        accelerator = loop.make_accelerator(run.recipe)
        counter = _StepCounter(self._advance, self._steps - rung.start, self._all_steps, f"learning rate {rate:g}")
        result: list[Trial | None] = [None]
        try:
            with plugins.use_plugins(counter):
                loop.train(run, accelerator, self._build, until=rung.steps)
        except loop.Interrupted as error:
            raise loop.Interrupted(
                f"interrupted in the search for a learning rate, with {rate:g}; {self._run.folder} can resume"
            ) from error
        except Diverged:
            result = [Trial(learning_rate=rate, steps=rung.steps, value=None, step=None)]
        else:
            if accelerator.is_main_process:
                best = CheckpointStore(run.folder, run.recipe.checkpoints.keep).read_progress(rung.steps).best
                assert best is not None  # each rung ends with a validation
                result = [Trial(learning_rate=rate, steps=rung.steps, value=best.value, step=best.step)]
        (trial,) = broadcast_object_list(result)
        return trial

    def _write(self) -> None:
        if self.accelerator.is_main_process:
            path = self._run.folder / SEARCH_FOLDER / SEARCH_FILE
            write_text(path, self._search.model_dump_json(indent=2) + "\n")

    def _remove_checkpoints(self, rate: float) -> None:
        if self.accelerator.is_main_process:
            shutil.rmtree(trial_folder(self._run.folder, rate) / "checkpoints", ignore_errors=True)

    def _adopt(self, folder: Path, rate: float) -> None:
        """Make the state of a trial the state of the run; again after a kill at any moment with the same outcome."""
        trial = trial_folder(folder, rate)
        write_text(folder / METRICS_FILE, read_text(trial / METRICS_FILE))
        with suppress(FileNotFoundError):  # moved before
            (trial / "checkpoints").rename(folder / "checkpoints")


@dataclass(frozen=True)
class _StepCounter:
    """The plugin that shows the steps of a trial, as some of a search's."""

    advance: Advance
    before: int
    all_steps: int
    note: str

    @hookimpl
    def rtd_step_ended(self, report: StepReport) -> None:
        # The last trial may be followed by another: the search says itself when it ends.
        self.advance(min(self.before + report.step, self.all_steps - 1), self.all_steps, self.note)

"""The state of a run on disk, written atomically, so that a run killed at any moment can resume.

A checkpoint is a folder `checkpoints/step-000100` with the trainable tower, the optimizer, and the progress.
Learning rate, order of the data and random numbers are functions of the step and need no state.
"""

import logging
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from rtd_plugin.checkpoint_files import read_checkpoint
from rtd_plugin.errors import RTDError
from rtd_plugin.files import write_atomically
from rtd_plugin.regular_files import read_bytes

_log = logging.getLogger(__name__)


class Best(BaseModel):
    """The best validation so far.

    Attributes:
        step: its checkpoint.
        value: its value of the selecting metric.
        validation: the recipe's section without `every`: the best depends on its benchmark and metric.
    """

    model_config = ConfigDict(extra="forbid")

    step: int
    value: float
    validation: dict[str, Any]


class RunProgress(BaseModel):
    """The progress of a run, and values that must not change until its end.

    Attributes:
        step: optimizer steps taken.
        processes: how many processes the run began with, since the order of the data depends on it.
        base_digest, projection_digest, triplet_digests: of the files behind the recipe's names.
        best: the best validation so far, if any.
    """

    model_config = ConfigDict(extra="forbid")

    step: int = 0
    processes: int
    base_digest: str
    projection_digest: str
    triplet_digests: list[str]
    best: Best | None = None


class BrokenCheckpoint(RTDError):
    """A checkpoint that cannot be read."""


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        folder: the run's folder.
        keep: how many of the latest to keep, in addition to the best one.
    """

    def __init__(self, folder: Path, keep: int):
        self.folder = folder / "checkpoints"
        self.keep = keep

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"

    def list_steps(self) -> list[int]:
        """Return the steps of the checkpoints on disk, ascending."""
        names = (re.fullmatch(r"step-(\d+)", path.name) for path in self.folder.glob("step-*"))
        return sorted(int(name[1]) for name in names if name)

    def find_processes(self) -> int | None:
        """Return how many processes the run began with; None without a checkpoint that can be read."""
        for step in self.list_steps()[::-1]:
            with suppress(BrokenCheckpoint):
                return self.read_progress(step).processes
        return None

    def save(
        self,
        progress: RunProgress,
        tower: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None,
    ) -> None:
        """Write a checkpoint and remove old ones.

        Raises:
            RTDError: it cannot be written; earlier ones are kept.
        """
        with write_atomically(self.path(progress.step)) as draft:
            draft.mkdir()
            weights = {name: weight.contiguous() for name, weight in tower.state_dict().items()}
            save_file(weights, draft / "tower.safetensors")
            state = {"optimizer": optimizer.state_dict(), "scaler": scaler.state_dict() if scaler else {}}
            torch.save(state, draft / "optimizer.pt")
            (draft / "progress.json").write_text(progress.model_dump_json(), encoding="utf-8")
        self.remove_old(progress)

    def remove_old(self, progress: RunProgress) -> None:
        """Remove checkpoints that need not be kept, and what a process that was killed while it did so left."""
        kept_steps = {
            *self.list_steps()[-self.keep :],
            progress.step,
            progress.best.step if progress.best else progress.step,
        }
        for step in set(self.list_steps()) - kept_steps:
            # Renamed first, so that a run killed meanwhile leaves no half-removed checkpoint under its name.
            try:
                os.replace(self.path(step), self.folder / f".step-{step:06d}.removed")
            except OSError as error:  # the next checkpoint, or the run when it resumes, tries again
                _log.warning("%s: an old checkpoint that cannot be removed (%s)", self.path(step), error.strerror)
        for leftover in self.folder.glob(".step-*"):  # renamed ones, and drafts of a killed run
            shutil.rmtree(leftover, ignore_errors=True)

    def read_progress(self, step: int) -> RunProgress:
        """Return the progress at a checkpoint.

        Raises:
            BrokenCheckpoint: it cannot be read.
        """
        path = self.path(step) / "progress.json"
        try:
            return RunProgress.model_validate_json(read_bytes(path))
        except (OSError, ValidationError) as error:
            raise BrokenCheckpoint(f"{path}: missing or broken") from error

    def load(
        self, step: int, tower: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None
    ) -> None:
        """Load a checkpoint into a run's objects.

        Raises:
            BrokenCheckpoint: it cannot be read, or does not fit these objects.
        """
        weights = self.read_tower(step)
        try:
            state = read_checkpoint(self.path(step) / "optimizer.pt")
            tower.load_state_dict(weights)
            optimizer.load_state_dict(state["optimizer"])
            if scaler is not None and state["scaler"]:  # empty if the run was not in fp16 before
                scaler.load_state_dict(state["scaler"])
        except RTDError as error:
            raise BrokenCheckpoint(str(error)) from error
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise BrokenCheckpoint(f"{self.path(step)}: not a checkpoint of this run, or a broken one") from error

    def read_tower(self, step: int) -> dict[str, Tensor]:
        """Return the trainable tower's weights at a checkpoint.

        Raises:
            BrokenCheckpoint: they cannot be read.
        """
        try:
            return dict(read_checkpoint(self.path(step) / "tower.safetensors"))
        except RTDError as error:
            raise BrokenCheckpoint(str(error)) from error

"""One optimizer step of a run."""

import copy
import math
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor

from rtd_plugin.clip.packing import PackedTower
from rtd_plugin.errors import RTDError
from rtd_plugin.plugins import plugin_manager
from rtd_plugin.training.batches import BatchOrder, make_batch, stream_seed
from rtd_plugin.training.objective import FrozenSide, objective_inputs
from rtd_plugin.training.recipe import Optimizer
from rtd_plugin.training.run import Run

ORDER, NOISE = 0, 1  # a run's random streams
FROZEN_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


class Stepper:
    """A run's trainable tower ψ with all that a step needs.

    Args:
        run: what to train on; its tower is copied.
        accelerator: where, and in which precision.

    Attributes:
        tower: ψ, with fp32 weights.
        optimizer: AdamW over all of them.
    """

    def __init__(self, run: Run, accelerator: Accelerator):
        recipe = run.recipe
        self.run = run
        self.accelerator = accelerator
        self.frozen = FrozenSide(copy.deepcopy(run.tower), copy.deepcopy(run.projection))
        self.frozen.to(accelerator.device, FROZEN_DTYPES[recipe.precision])
        self.tower = copy.deepcopy(run.tower).requires_grad_(True)
        optimizer = torch.optim.AdamW(self.tower.parameters(), weight_decay=recipe.optimizer.weight_decay, fused=True)
        self.model, self.optimizer = accelerator.prepare(PackedTower(self.tower), optimizer)
        self.order = BatchOrder(
            len(run.triplets),
            recipe.batch_size,
            recipe.shuffle,
            stream_seed(recipe.seed, ORDER),
            rank=accelerator.process_index,
            processes=accelerator.num_processes,
        )

    @property
    def triplets(self) -> int:
        """How many triplets a step takes, on all processes together."""
        recipe = self.run.recipe
        return recipe.accumulation * recipe.batch_size * self.accelerator.num_processes

    def take(self, step: int, rate: float) -> float:
        """Take a step, counted from 0, with a learning rate.

        Returns:
            The loss, the mean over its batches on all processes.

        Raises:
            RTDError: the loss is not a number.
        """
        recipe, accelerator = self.run.recipe, self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = torch.zeros((), device=accelerator.device)
        for part in range(recipe.accumulation):
            last = part == recipe.accumulation - 1
            with nullcontext() if last else accelerator.no_sync(self.model):
                part_loss = self._loss(step * recipe.accumulation + part) / recipe.accumulation
                accelerator.backward(part_loss)
            loss += part_loss.detach()
        if recipe.optimizer.max_grad_norm is not None:
            accelerator.clip_grad_norm_(self.tower.parameters(), recipe.optimizer.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        mean = accelerator.reduce(loss, "mean").item()
        if not math.isfinite(mean):
            raise RTDError(
                f"the loss is {mean} at step {step + 1}: lower optimizer.learning_rate, or raise "
                "objective.temperature, or set precision to bf16 or fp32"
            )
        return mean

    def _loss(self, number: int) -> Tensor:
        """The loss of a batch, by its number in the run."""
        run, recipe = self.run, self.run.recipe
        triplets = [run.triplets[index] for index in self.order.indices(number)]
        projected = recipe.objective.concatenation == "projected"
        batch = make_batch(triplets, run.adapter, run.tower.context_length, projected)
        seed = stream_seed(recipe.seed, NOISE, number, self.accelerator.process_index)
        noise = torch.Generator().manual_seed(seed)
        inputs = objective_inputs(
            self.model, self.frozen, batch, run.adapter.prompt.placeholder_id, recipe.objective, noise
        )
        loss = plugin_manager().hook.rtd_objective(inputs=inputs)
        if loss is None:
            raise RTDError("there is no objective: the plugin objective is left out, and no other gives one")
        return loss


def learning_rate(step: int, steps: int, settings: Optimizer) -> float:
    """The learning rate of a step, counted from 0: it rises over the warm-up, then follows the schedule."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps)
    factor = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return settings.learning_rate * factor[settings.schedule]

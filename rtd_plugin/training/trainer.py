"""The trainable text tower with its optimizer: takes steps."""

import math

import torch
from accelerate import Accelerator
from torch import Tensor

from rtd_plugin.clip.tokens import tokenize
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.errors import RTDError
from rtd_plugin.training.batches import Batch, map_device_tensors
from rtd_plugin.training.checkpoints import CheckpointStore
from rtd_plugin.training.objective import choose_objective
from rtd_plugin.training.plain import BuildEngine
from rtd_plugin.training.recipe import Optimizer
from rtd_plugin.training.run import Run

ADVICE = (
    "lower optimizer.learning_rate, raise objective.temperature, or set precision to bf16 or fp32; "
    "learning rate and precision may change with --resume too"
)
DECAY = "untrained_decay"  # key in the optimizer's state, for embeddings outside the optimizer


class Diverged(RTDError):
    """The loss or a weight is not finite."""


class Trainer:
    """ψ with its optimizer.

    Args:
        run: what to train on; its tower is copied.
        accelerator: device and precision.
        build: builds the engine.

    Attributes:
        batches: how many this process takes in a step.
        tower: ψ, with fp32 weights.
        optimizer: AdamW over all of them.
    """

    def __init__(self, run: Run, accelerator: Accelerator, build: BuildEngine):
        self.run, self.accelerator = run, accelerator
        recipe, device = run.recipe, accelerator.device
        self.batches = run.count_batches(accelerator.num_processes)
        self._engine = engine = build(run, accelerator)
        self.tower = engine.tower
        on_gpu = device.type == "cuda"
        # A learning rate in a tensor can change while a graph of the step is replayed.
        rate = torch.tensor(recipe.optimizer.rate, device=device) if on_gpu else recipe.optimizer.rate
        optimizer = torch.optim.AdamW(
            self.tower.parameters(), rate, weight_decay=recipe.optimizer.weight_decay, fused=True, capturable=on_gpu
        )
        self._rate = rate
        self._model, self.optimizer = accelerator.prepare(engine.encoder, optimizer)
        self._compute_loss = choose_objective(
            self._model,
            engine.frozen,
            recipe.objective,
            run.adapter.prompt.placeholder_id,
            engine.encoder.prepare,
            engine.contrast,
        )
        self._update = engine.capture(self._update_on)

    def resume(self, store: CheckpointStore, step: int) -> None:
        """Load a checkpoint.

        Raises:
            BrokenCheckpoint: it cannot be read, or does not fit the run.
        """
        store.load(step, self.tower, self.optimizer, self.accelerator.scaler)
        decay = getattr(self.tower.token_embedding, "decay", None)
        for group in self.optimizer.param_groups:
            if decay is not None:
                decay.fill_(float(group[DECAY]))
                group[DECAY] = decay

    @property
    def triplets(self) -> int:
        """Number of triplets that a step takes, on all processes together."""
        return self.batches * self.run.recipe.batch_size * self.accelerator.num_processes

    def take_step(self, step: int, rate: float) -> Tensor:
        """Take a step, counted from 0, with a learning rate.

        Returns:
            The mean loss over the step's batches on this process, on the device; reading it waits for the step.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate.fill_(rate) if isinstance(self._rate, Tensor) else rate
        first = step * self.batches
        loss = torch.zeros((), device=self.accelerator.device)
        for index in range(first, first + self.batches - 1):
            with self.accelerator.no_sync(self._model):
                loss += self._add_gradients(self._move(self._engine.batches[index]))
        return loss + self._update(self._engine.batches[first + self.batches - 1])

    def _move(self, batch: Batch) -> Batch:
        device = self.accelerator.device
        return map_device_tensors(lambda tensor: tensor.to(device, non_blocking=True), batch)

    def _add_gradients(self, batch: Batch) -> Tensor:
        loss = self._compute_loss(batch)
        if self.batches > 1:
            loss = loss / self.batches
        self.accelerator.backward(loss)
        return loss.detach()

    def _update_on(self, batch: Batch) -> Tensor:
        """Add a batch's gradients and take the optimizer's step; nothing here waits for the device."""
        loss = self._add_gradients(self._move(batch))
        settings, scaler = self.run.recipe.optimizer, self.accelerator.scaler
        if settings.max_grad_norm is not None:
            self.accelerator.clip_grad_norm_(self.tower.parameters(), settings.max_grad_norm)
        scale = scaler._scale.clone() if scaler is not None and scaler._scale is not None else None
        self.optimizer.step()
        self.optimizer.zero_grad()
        decay = getattr(self.tower.token_embedding, "decay", None)
        if decay is not None:
            group = self.optimizer.param_groups[0]
            factor = 1 - group["lr"] * settings.weight_decay
            if scale is not None:  # a step with gradients out of fp16's range is skipped, and lowers the scale
                factor = torch.where(scaler._scale < scale, 1.0, factor)
            group[DECAY] = decay.mul_(factor)
        return loss

    def copy_tower(self) -> TextTower:
        """Return ψ for use: on the CPU, in eval mode, without gradients."""
        weights = {name: weight.cpu() for name, weight in self.tower.state_dict().items()}
        tower = TextTower.from_state_dict(weights, activation=self.tower.activation, heads=self.tower.heads)
        return tower.eval().requires_grad_(False)

    def check_weights(self, step: int) -> None:
        """Refuse weights that are not finite, or with which features are not.

        Raises:
            Diverged: a weight, or the feature of a text, is infinite or not a number.
        """
        if not torch.stack([weight.isfinite().all() for weight in self.tower.parameters()]).all():
            raise Diverged(f"weights are not finite after step {step}: {ADVICE}")
        with torch.no_grad():
            features = self.tower.encode(tokenize(["a photo"]).to(self.accelerator.device))
        if not features.isfinite().all():
            raise Diverged(f"features are not finite after step {step}: {ADVICE}")


def schedule_rate(step: int, steps: int, settings: Optimizer) -> float:
    """Return the learning rate of a step, counted from 0: it rises over the warm-up, then follows the schedule."""
    if step < settings.warmup_steps:
        return settings.rate * (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps)
    factor = {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}
    return settings.rate * factor[settings.schedule]

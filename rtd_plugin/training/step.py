"""One optimizer step of a run."""

import copy
import logging
import math
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor

from rtd_plugin.cache import cache_folder
from rtd_plugin.clip.tokens import END, START
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.contract.plugins import get_plugin_manager
from rtd_plugin.engine.allocator import keep_freed_memory
from rtd_plugin.engine.batch_groups import Windows, kept_features
from rtd_plugin.engine.caption_features import DTYPES
from rtd_plugin.engine.partial_embedding import PartlyTrainedEmbedding
from rtd_plugin.engine.prefix_tree import PackedTower
from rtd_plugin.engine.weight_file import WeightFile
from rtd_plugin.errors import RTDError
from rtd_plugin.training import objective
from rtd_plugin.training.batches import BatchOrder, stream_seed
from rtd_plugin.training.checkpoints import CheckpointStore
from rtd_plugin.training.objective import FrozenSide, objective_inputs
from rtd_plugin.training.recipe import Optimizer
from rtd_plugin.training.run import Run

ORDER, NOISE = 0, 1  # a run's random streams
UPDATED_TOGETHER = 4  # blocks on the way back: the activations that they free outweigh their gradients
MAPPED_FROM = 2**26  # bytes of frozen blocks; fewer are not worth the reading
DECAY = "untrained_decay"  # in the optimizer's state, that of embeddings it does not know


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
        recipe, device = run.recipe, accelerator.device
        self.run = run
        self.accelerator = accelerator
        if device.type == "cpu":
            keep_freed_memory()
        kept = kept_features(run, accelerator)
        self.frozen = _frozen_side(run, device)
        self.tower = _trainable(run, device)
        self.frozen.tower.done(run.tower)  # all of it has been read for the copy
        packed = PackedTower(self.tower, recipe.activation_checkpointing, recipe.compile)
        optimizer = torch.optim.AdamW(self.tower.parameters(), weight_decay=recipe.optimizer.weight_decay, fused=True)
        self.model, self.optimizer = accelerator.prepare(packed, optimizer)
        # Whoever clips, scales, exchanges or adds up gradients needs all of them before the first update; and what a
        # plugin's objective reads on the way back nobody knows.
        waits = recipe.optimizer.max_grad_norm is not None or accelerator.scaler is not None or not _is_published()
        if not waits and recipe.accumulation == accelerator.num_processes == 1:
            # A block's gradients come together; those of the first blocks are updated at the end, with all others.
            for block in self.tower.transformer.resblocks[UPDATED_TOGETHER::UPDATED_TOGETHER]:
                block.attn.in_proj_weight.register_post_accumulate_grad_hook(lambda _: self._update())
        order = BatchOrder(
            len(run.triplets),
            recipe.batch_size,
            recipe.shuffle,
            stream_seed(recipe.seed, ORDER),
            rank=accelerator.process_index,
            processes=accelerator.num_processes,
        )
        self.windows = Windows(run, order, self.frozen, kept)

    def resume(self, store: CheckpointStore, step: int) -> None:
        """Go on from a checkpoint.

        Raises:
            RTDError: the checkpoint is broken.
        """
        store.load(step, self.tower, self.optimizer, self.accelerator.scaler)
        if isinstance(self.tower.token_embedding, PartlyTrainedEmbedding):
            self.tower.token_embedding.decay = self.optimizer.param_groups[0][DECAY]

    def tuned(self) -> TextTower:
        """ψ as it is now, for use: on the CPU, in eval mode, without gradients."""
        weights = {name: weight.cpu() for name, weight in self.tower.state_dict().items()}
        tower = TextTower.from_state_dict(weights, activation=self.tower.activation, heads=self.tower.heads)
        return tower.eval().requires_grad_(False)

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
        self._update()
        if isinstance(self.tower.token_embedding, PartlyTrainedEmbedding) and not self.optimizer.step_was_skipped:
            decay = self.tower.token_embedding.decay * (1 - rate * recipe.optimizer.weight_decay)
            self.tower.token_embedding.decay = self.optimizer.param_groups[0][DECAY] = decay
        mean = accelerator.reduce(loss, "mean").item()
        if not math.isfinite(mean):
            raise RTDError(
                f"the loss is {mean} at step {step + 1}: lower optimizer.learning_rate, or raise "
                "objective.temperature, or set precision to bf16 or fp32"
            )
        return mean

    def _update(self) -> None:
        """Update what has a gradient, and free that; on the way back, so that they are never all in memory."""
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _loss(self, number: int) -> Tensor:
        """The loss of a batch, by its number in the run."""
        run, recipe = self.run, self.run.recipe
        seed = stream_seed(recipe.seed, NOISE, number, self.accelerator.process_index)
        noise = torch.Generator().manual_seed(seed)
        batch, placeholder = self.windows.batch(number), run.adapter.prompt.placeholder_id
        inputs = objective_inputs(self.model, self.frozen, batch, placeholder, recipe.objective, noise)
        loss = get_plugin_manager().hook.rtd_objective(inputs=inputs)
        if loss is None:
            raise RTDError("there is no objective: the plugin objective is left out, and no other gives one")
        return loss


def _is_published() -> bool:
    """Whether no plugin but the published objective's could give the loss."""
    implementations = get_plugin_manager().hook.rtd_objective.get_hookimpls()
    return all(implementation.plugin is objective for implementation in implementations)


def _used_embeddings(run: Run, device: torch.device) -> PartlyTrainedEmbedding:
    """The token embeddings that occur in a run's texts, those of its prompts among them."""
    prompt, unconditioned = run.adapter.prompt.fill(condition=[]), run.adapter.unconditioned_prompt.fill()
    tokens = sorted({START, END, *prompt, *unconditioned, *run.triplets.vocabulary})
    return PartlyTrainedEmbedding(run.tower.token_embedding.weight.to(device), tokens)


def _trainable(run: Run, device: torch.device) -> TextTower:
    """A copy of the run's tower to train on a device, of its token embeddings those that occur.

    A plugin's objective may encode whatever it likes, so there all are trained.
    """
    replaced = {id(run.tower.token_embedding): _used_embeddings(run, device)} if _is_published() else {}
    return copy.deepcopy(run.tower, replaced).to(device).requires_grad_(True)


def _frozen_side(run: Run, device: torch.device) -> FrozenSide:
    """ψ₀ and φ on a device and in the run's precision."""
    dtype = DTYPES[run.recipe.precision]
    tower, projection = run.tower, run.projection
    if device.type != "cpu" or dtype != torch.float32:
        return FrozenSide(*(copy.deepcopy(module).to(device, dtype) for module in (tower, projection)))
    if sum(parameter.nbytes for parameter in tower.transformer.parameters()) < MAPPED_FROM:
        return FrozenSide(tower, projection)
    try:
        done = WeightFile(tower, cache_folder()).release
    except OSError as error:  # the disk is full
        logging.getLogger(__name__).warning("%s: no room for the frozen weights (%s)", cache_folder(), error.strerror)
        return FrozenSide(tower, projection)
    replaced = {id(tower.transformer): tower.transformer, id(tower.token_embedding): _used_embeddings(run, device)}
    return FrozenSide(copy.deepcopy(tower, replaced), projection, done)


def learning_rate(step: int, steps: int, settings: Optimizer) -> float:
    """The learning rate of a step, counted from 0: it rises over the warm-up, then follows the schedule."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps)
    factor = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
    return settings.learning_rate * factor[settings.schedule]

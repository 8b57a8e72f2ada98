"""RTD's objective: target-anchored contrastive learning with a hard-negative refined batch (RTD, section 3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from rtd_plugin.clip.tower import TextTower
from rtd_plugin.contract.hookspecs import hookimpl
from rtd_plugin.engine.prefix_tree import PackedTower
from rtd_plugin.errors import RTDError

if TYPE_CHECKING:  # they bring accelerate and open_clip along, which whoever wants the loss need not wait for
    from rtd_plugin.training.batches import Batch
    from rtd_plugin.training.recipe import Objective

Encode = Callable[[Tensor, Tensor | None, int, Tensor | None], Tensor]
"""As `TextTower.encode`: tokens (B, L), pseudo tokens or None, placeholder, subjects or None -> (B, D)."""


def rtd_loss(queries: Tensor, targets: Tensor, temperature: float = 0.07) -> Tensor:
    """NT-Xent over queries and targets together (Chen et al. 2020, equation 1, on RTD's pairs).

    The n queries and n targets make one set of 2n rows. Each row is an anchor; its positive is its partner in the other
    half, and every other row of either half is a negative.

    Args:
        queries: (n, D) features of composed queries, not normalised.
        targets: (n, D) features of their targets, not normalised.
        temperature: divides the cosine similarities.

    Returns:
        The mean over the 2n anchors, a scalar in fp32.

    Raises:
        RTDError: the shapes differ or are not (n, D).
    """
    if queries.ndim != 2 or queries.shape != targets.shape:
        raise RTDError(
            f"queries have shape {tuple(queries.shape)} and targets {tuple(targets.shape)}, but both need (n, D)"
        )
    n = len(queries)
    rows = F.normalize(torch.cat([queries, targets]).float(), dim=-1)  # (2n, D)
    similarities = rows @ rows.T / temperature  # (2n, 2n)
    itself = torch.eye(2 * n, dtype=torch.bool, device=rows.device)
    partners = torch.arange(2 * n, device=rows.device).roll(n)
    return F.cross_entropy(similarities.masked_fill(itself, float("-inf")), partners)


class FrozenSide(nn.Module):
    """What never changes in training: the pre-trained text tower ψ₀ and the projection module φ.

    Args:
        tower: ψ₀.
        projection: φ, features (B, D) to pseudo tokens (B, W) or (B, n, W).
        done: called with each block of the tower that has been used.
    """

    def __init__(
        self,
        tower: TextTower,
        projection: nn.Module,
        done: Callable[[nn.Module], None] = lambda block: None,
    ):
        super().__init__()
        self.tower = PackedTower(tower, done=done)
        self.projection = projection
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def features(self, captions: Tensor) -> Tensor:
        """What ψ₀ gives for captions, (n, L) tokens on the CPU: (n, D), not normalised."""
        return self.tower(captions)

    @torch.no_grad()
    def forward(self, batch: Batch, noise_scale: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Targets' features (B, D), references' features (B, D), and pseudo tokens of the noised references."""
        features = batch.features
        if features is None:
            features = self.features(stack(batch.targets, batch.references))
        targets, references = features.to(self.tower.tower.device).chunk(2)
        # Drawn on the CPU in fp32: the same noise on every device and in every precision.
        strength = torch.rand(len(references), 1, generator=generator)
        noise = noise_scale * strength * torch.randn(references.shape, generator=generator)
        return targets, references, self.projection(references + noise.to(references))


@dataclass(frozen=True, eq=False)
class ObjectiveInputs:
    """What an objective makes a batch's loss of.

    Attributes:
        encode: ψ, with gradients. It computes once what texts of a call begin with alike, so one call with all texts
            costs less than several.
        batch: B triplets as tokens, on the CPU.
        targets, references: (B, D) features of the captions by ψ₀, not normalised.
        pseudo_tokens: (B, W) or (B, n, W), of the noised references.
        placeholder: the placeholder's id in the batch's queries.
        settings: the recipe's objective.
    """

    encode: Encode
    batch: Batch
    targets: Tensor
    references: Tensor
    pseudo_tokens: Tensor
    placeholder: int
    settings: Objective


def objective_inputs(
    encode: Encode, frozen: FrozenSide, batch: Batch, placeholder: int, settings: Objective, generator: torch.Generator
) -> ObjectiveInputs:
    """What an objective makes a batch's loss of.

    Args:
        encode: ψ.
        frozen: ψ₀ and φ.
        batch: B triplets.
        placeholder: the placeholder's id in the batch's queries.
        settings: the recipe's objective.
        generator: on the CPU, of the noise.
    """
    targets, references, pseudo_tokens = frozen(batch, settings.noise_scale, generator)
    return ObjectiveInputs(encode, batch, targets, references, pseudo_tokens, placeholder, settings)


@hookimpl(trylast=True)
def rtd_objective(inputs: ObjectiveInputs) -> Tensor:
    """The published objective (RTD, section 3), with gradients for ψ alone."""
    batch, settings = inputs.batch, inputs.settings
    tokens, targets, subjects = batch.queries, inputs.targets, torch.arange(len(batch.queries))
    if settings.hard_negatives:
        tokens = stack(batch.queries, batch.unconditioned)  # (2B, L)
        targets = torch.cat([targets, inputs.references])  # (2B, D)
        subjects = torch.cat([subjects, subjects])
    pseudo_tokens = inputs.pseudo_tokens if settings.concatenation == "projected" else None
    queries = inputs.encode(tokens, pseudo_tokens, inputs.placeholder, subjects)  # (2B, D)
    if settings.negatives == "gathered" and distributed.is_available() and distributed.is_initialized():
        queries, targets = _Gather.apply(queries.float()), _Gather.apply(targets.float())
    return rtd_loss(queries, targets, settings.temperature)


class _Gather(torch.autograd.Function):
    """The rows of all processes, for a loss that every one of them computes in full.

    Data parallelism averages the gradients of P processes, so each hands back P times its own rows' share; averaged,
    that is the gradient of the one loss.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:  # (n, D) -> (P n, D)
        parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # (P n, D) -> (n, D)
        processes = distributed.get_world_size()
        return processes * gradient.chunk(processes)[distributed.get_rank()]


def stack(*batches: Tensor) -> Tensor:
    """Token batches (B, L), each with its own B and L, as one (sum of B, longest L), zeros after the end tokens."""
    length = max(tokens.shape[1] for tokens in batches)
    return torch.cat([F.pad(tokens, (0, length - tokens.shape[1])) for tokens in batches])

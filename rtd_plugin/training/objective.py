"""The objective of a run: the published one, or a plugin's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from rtd_plugin.clip.tower import average_features
from rtd_plugin.contract.plugins import get_plugin_manager
from rtd_plugin.training.batches import Batch, map_tensors
from rtd_plugin.training.frozen import PlainFrozen
from rtd_plugin.training.recipe import Objective
from rtd_plugin.training.step import Contrast, compute_loss


@dataclass(frozen=True, eq=False)
class ObjectiveInputs:
    """The inputs of a plugin's objective for one batch.

    Attributes:
        encode: ψ, with gradients; takes what `rtd_plugin.TextTower.encode` takes. The engine computes common
            prefixes in a call once, so one call with all texts is faster than several.
        batch: B triplets as tokens, on the CPU.
        targets, references: (B, D) features of the captions by ψ₀, not normalised.
        pseudo_tokens: (B, W) or (B, n, W), of the noised references; a tuple of them if the method averages several
            composed queries, which `encode` does too.
        placeholder: the placeholder's id in the batch's queries.
        settings: the recipe's objective.
    """

    encode: Callable[..., Tensor]
    batch: Batch
    targets: Tensor
    references: Tensor
    pseudo_tokens: Tensor | tuple[Tensor, ...]
    placeholder: int
    settings: Objective


def is_published() -> bool:
    """Return whether the published objective is used: no plugin implements `rtd_objective`."""
    return not get_plugin_manager().hook.rtd_objective.get_hookimpls()


def choose_objective(
    model: nn.Module,
    frozen: PlainFrozen,
    settings: Objective,
    placeholder: int,
    prepare: Callable[..., Any],
    contrast: Contrast,
) -> Callable[[Batch], Tensor]:
    """Return the function that computes a batch's loss: a plugin's objective, or else the published one.

    Args:
        model: ψ, on its device; takes prepared texts and pseudo tokens.
        frozen: ψ₀ and φ.
        settings: the recipe's objective.
        placeholder: the placeholder's id in the batches' queries.
        prepare: as in `rtd_plugin.training.plain.PlainTower`.
        contrast: the loss of the published objective.
    """

    def compute_published(batch: Batch) -> Tensor:
        return compute_loss(batch, model, frozen, settings, contrast)

    def encode(
        tokens: Tensor,
        pseudo_tokens: Tensor | tuple[Tensor, ...] | None = None,
        placeholder: int | Tensor = placeholder,
        subjects: Tensor | None = None,
    ) -> Tensor:
        if isinstance(pseudo_tokens, tuple):
            return average_features([encode(tokens, each, placeholder, subjects) for each in pseudo_tokens])
        count = None if pseudo_tokens is None else 1 if pseudo_tokens.ndim == 2 else pseudo_tokens.shape[1]
        texts = prepare(tokens.cpu(), placeholder, subjects, count)
        return model(map_tensors(lambda tensor: tensor.to(frozen.device), texts), pseudo_tokens)

    def ask_plugins(batch: Batch) -> Tensor:
        targets, references = frozen.features(batch)
        pseudo_tokens = frozen.project(references + batch.noise.to(references), batch.queries).split(len(references))
        pseudo_tokens = pseudo_tokens if len(pseudo_tokens) > 1 else pseudo_tokens[0]
        inputs = ObjectiveInputs(encode, batch, targets, references, pseudo_tokens, placeholder, settings)
        loss = get_plugin_manager().hook.rtd_objective(inputs=inputs)
        return compute_published(batch) if loss is None else loss

    return compute_published if is_published() else ask_plugins

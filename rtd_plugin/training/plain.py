"""ψ without tricks, the reference for the fast one, and the interface of an engine."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rtd_plugin.clip.tower import TextTower
from rtd_plugin.training.batches import Batch, RunBatches
from rtd_plugin.training.frozen import PlainFrozen, copy_frozen
from rtd_plugin.training.loss import rtd_loss
from rtd_plugin.training.run import Run
from rtd_plugin.training.step import Contrast
from rtd_plugin.training.word_noise import freeze_other_embeddings

Update = Callable[[Batch], Tensor]
"""Takes an optimizer step on a batch and returns the loss, without waiting for the device."""


@dataclass(frozen=True, eq=False)
class PlainTexts:
    """Texts as `TextTower.encode` takes them.

    Attributes:
        tokens: (n, L) int64.
        placeholders: (n, L) bool, where pseudo tokens go.
        subjects: (n,) int64, index of each text's pseudo token.
    """

    tokens: Tensor
    placeholders: Tensor
    subjects: Tensor


class PlainTower(nn.Module):
    """ψ: encodes texts padded to the longest.

    Args:
        tower: the tower whose weights it uses, without a copy.
    """

    def __init__(self, tower: TextTower):
        super().__init__()
        self.tower = tower

    def prepare(
        self,
        tokens: Tensor,
        placeholder: int | Tensor = 259,
        subjects: Tensor | None = None,
        pseudo_tokens: int | None = None,
    ) -> PlainTexts:
        """Prepare texts on the CPU; arguments as `rtd_plugin.engine.packed_tower.PackedTower.prepare`."""
        if not isinstance(placeholder, Tensor):
            columns = torch.arange(tokens.shape[1])
            placeholder = (tokens == placeholder) & (columns < tokens.argmax(dim=1, keepdim=True))
        return PlainTexts(tokens, placeholder, torch.arange(len(tokens)) if subjects is None else subjects)

    def forward(self, texts: PlainTexts, pseudo_tokens: Tensor | None = None) -> Tensor:
        """Return the texts' features, (n, D), not normalised."""
        return self.tower.encode(texts.tokens, pseudo_tokens, texts.placeholders, texts.subjects)


class Batches(Protocol):
    """Batches by their index."""

    def __getitem__(self, index: int) -> Batch: ...


@dataclass(frozen=True, eq=False)
class Engine:
    """The objects that a run trains with.

    Attributes:
        tower: ψ's weights, fp32, on the device.
        encoder: ψ as a module with `prepare` and `forward`, as `PlainTower`.
        frozen: ψ₀ and φ.
        batches: with their queries prepared by `encoder.prepare`.
        capture: wraps the function that takes a step, to run it faster.
        contrast: the loss.
    """

    tower: TextTower
    encoder: Any
    frozen: PlainFrozen
    batches: Batches
    capture: Callable[[Update], Update] = lambda update: update
    contrast: Contrast = rtd_loss


BuildEngine = Callable[[Run, Accelerator], Engine]


def build_plain(run: Run, accelerator: Accelerator) -> Engine:
    """Return the pair without tricks."""
    device = accelerator.device
    tower = copy.deepcopy(run.tower).to(device).requires_grad_(True)
    if run.recipe.wording.noise:
        freeze_other_embeddings(run, tower.token_embedding)
    encoder, frozen = PlainTower(tower), PlainFrozen(*copy_frozen(run, device))
    return Engine(tower, encoder, frozen, RunBatches(run, accelerator, encoder.prepare, frozen))

"""One training step of RTD: the loss of a batch (section 3 of the paper, arXiv 2406.09188)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rtd_plugin.clip.tower import average_features
from rtd_plugin.training.batches import Batch
from rtd_plugin.training.frozen import PlainFrozen
from rtd_plugin.training.loss import gather_rows, rtd_loss
from rtd_plugin.training.recipe import Objective

Encode = Callable[[Any, Tensor | None], Tensor]
"""ψ with gradients: prepared texts, pseudo tokens or None -> features (n, D)."""


Contrast = Callable[[Tensor, Tensor, float], Tensor]
"""The loss of queries (n, D) and targets (n, D) at a temperature, as `rtd_loss` computes it."""


def compute_loss(
    batch: Batch, encode: Encode, frozen: PlainFrozen, settings: Objective, contrast: Contrast = rtd_loss
) -> Tensor:
    """Return the loss of B triplets, a scalar with gradients for ψ alone.

    ψ is the text encoder that is tuned, ψ₀ the pre-trained one that it starts from, and φ the method's projection.

    Args:
        batch: the triplets as tokens, with the noise and the prepared queries.
        encode: ψ.
        frozen: ψ₀ and φ.
        settings: the recipe's objective.
        contrast: the loss.
    """
    # The frozen encoder anchors the targets: ψ learns to compose, and stays in the space of CLIP's images.
    targets, references = frozen.features(batch)  # ψ₀ of the captions: (B, D) each
    # Refined concatenation: φ expects image features, and a text feature with noise resembles one.
    pseudo_tokens = None
    if settings.concatenation == "projected":
        pseudo_tokens = frozen.project(references + batch.noise.to(references), batch.queries)  # (B, W) or (B, n, W)
    # Refined batch: the prompt without a condition must find the reference, the hard negative of the one with it.
    if settings.hard_negatives:
        targets = torch.cat([targets, references])  # (2B, D)
    queries = average_features(encode(batch.composed, pseudo_tokens).split(len(targets)))  # as targets
    if settings.negatives == "gathered":
        queries, targets = gather_rows(queries), gather_rows(targets)
    return contrast(queries, targets, settings.temperature)

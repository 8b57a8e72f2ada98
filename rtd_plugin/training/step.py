"""One training step of RTD: the loss of a batch (section 3 of the paper, arXiv 2406.09188)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rtd_plugin.clip.tower import average_features
from rtd_plugin.training.batches import Batch
from rtd_plugin.training.frozen import PlainFrozen
from rtd_plugin.training.loss import gather_rows, rtd_loss, wording_distance
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
    texts = len(targets) + (0 if batch.reworded is None else len(batch.reworded))
    queries = average_features(encode(batch.composed, pseudo_tokens).split(texts))  # as targets, then the reworded ones

    def find_targets(queries: Tensor) -> Tensor:
        gathered = settings.negatives == "gathered"
        pair = (gather_rows(queries), gather_rows(targets)) if gathered else (queries, targets)
        return contrast(*pair, settings.temperature)

    if batch.reworded is None or batch.consistency is None:
        return find_targets(queries)
    # Consistency, which the paper does not have: another wording of a request must give the same query.
    queries, reworded = queries.split([len(targets), len(batch.reworded)])
    first, unconditioned = queries.split([len(reworded), len(targets) - len(reworded)])
    loss = (find_targets(queries) + find_targets(torch.cat([reworded, unconditioned]))) / 2
    return loss + batch.consistency * wording_distance(first, reworded) / settings.temperature

"""Recall, average precision and their confidence intervals, from ranks."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from rtd_plugin.errors import RTDError

_BLOCK = 2**22  # draws held at a time


def hits_at(ranks: Tensor, k: int) -> Tensor:
    """1 where a target is among the first k, else 0: recall is the mean; (Q,) float64 from (Q,) ranks, 0 for none."""
    return ((ranks >= 1) & (ranks <= k)).double()


def average_precision_at(ranks: Tensor, k: int) -> Tensor:
    """Average precision among the first k with at most k targets to be found: mAP@k is the mean.

    Σ over found targets of the precision at their rank, by min(number of targets, k) (Baldrati et al., Zero-Shot
    Composed Image Retrieval with Textual Inversion, ICCV 2023, section 4).

    Args:
        ranks: (Q, T) ranks of each query's targets, ascending, 0 where there are fewer than T.

    Returns:
        (Q,) float64, from 0 to 1; 0 for a query without targets.
    """
    found = (ranks >= 1) & (ranks <= k)
    number = torch.arange(1, ranks.shape[1] + 1)  # the n-th target at rank r: n of the first r are targets
    precisions = torch.where(found, number / ranks.clamp(min=1).double(), 0.0)
    return precisions.sum(1) / (ranks >= 1).sum(1).clamp(min=1, max=k)


def bootstrap_interval(
    *parts: Tensor, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap over queries of a mean (Efron and Tibshirani, 1993).

    Args:
        parts: (Q,) one figure a query, such as 1 where its target was found and 0 elsewhere, or the difference of two
            systems, which makes it a paired bootstrap. Of several parts, each with queries of its own, the interval
            is that of the mean of their means.
        resamples: how many times the queries of each part are drawn with replacement.
        level: share of the resampled means within the interval.
        seed: equal seeds give equal intervals; the global random state is left alone.

    Returns:
        Lower and upper end, in percent (of figures of 0 to 1).

    Raises:
        RTDError: there is no query, or a figure is not a number.
    """
    if not parts or not all(len(part) and part.isfinite().all() for part in parts):
        raise RTDError("a confidence interval needs at least one query, and a number for each")
    random = np.random.default_rng(seed)
    means = sum(np.concatenate(list(_resampled_means(part.double(), resamples, random))) for part in parts) / len(parts)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return 100 * float(low), 100 * float(high)


def _resampled_means(figures: Tensor, resamples: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    # Queries with equal figures are interchangeable: drawing how often each distinct figure occurs is the same
    # bootstrap, and hits have two of them or, paired, three.
    values, counts = (column.cpu().numpy() for column in figures.unique(return_counts=True))
    step = max(1, _BLOCK // len(values))
    for start in range(0, resamples, step):
        draws = random.multinomial(len(figures), counts / len(figures), min(step, resamples - start))
        yield draws @ values / len(figures)

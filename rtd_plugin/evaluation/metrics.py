"""Recall, average precision and their confidence intervals, from ranks."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from rtd_plugin.errors import RTDError

_BLOCK = 2**22  # draws held at once


def hits_at(ranks: Tensor, k: int) -> Tensor:
    """Return 1 for a target among the first k, else 0; recall at k is the mean.

    Args:
        ranks: (Q,) ranks from 1; 0 for none.

    Returns:
        (Q,) float64.

    Example:
        >>> hits_at(torch.tensor([1, 7, 3, 0]), k=3).mean().item()
        0.5
    """
    return ((ranks >= 1) & (ranks <= k)).double()


def average_precision_at(ranks: Tensor, k: int) -> Tensor:
    """Return the average precision among the first k; mAP at k is the mean.

    Σ over targets among the first k of the precision at their rank, by min(number of targets, k) (Baldrati et al.,
    Zero-Shot Composed Image Retrieval with Textual Inversion, ICCV 2023, section 4).

    Args:
        ranks: (Q, T) ranks of each query's targets, ascending; 0 pads queries with fewer than T.

    Returns:
        (Q,) float64, from 0 to 1; 0 for a query without targets.

    Example:
        >>> average_precision_at(torch.tensor([[1, 4]]), k=5).item()
        0.75
    """
    is_hit = (ranks >= 1) & (ranks <= k)
    hits = torch.arange(1, ranks.shape[1] + 1)  # the n-th target has n targets up to its rank
    precisions = torch.where(is_hit, hits / ranks.clamp(min=1).double(), 0.0)
    return precisions.sum(1) / (ranks >= 1).sum(1).clamp(min=1, max=k)


def bootstrap_interval(
    *groups: Tensor, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a mean over queries (Efron and Tibshirani, 1993).

    Args:
        groups: (Q,) values of queries, such as 1 for a hit and 0 for a miss, or differences of two systems, which makes
            it a paired bootstrap. For several groups of queries, the interval is of the mean of the groups' means.
        resamples: how many times the queries of each group are drawn with replacement.
        level: share of the resampled means within the interval.
        seed: equal seeds give equal intervals; the global random state is not used.

    Returns:
        Lower and upper end, in percent (of values from 0 to 1).

    Raises:
        RTDError: a group is empty, or a value is not finite.
    """
    if not groups or not all(len(values) and values.isfinite().all() for values in groups):
        raise RTDError("a confidence interval needs at least one query, and a finite value for each")
    random = np.random.default_rng(seed)
    means = sum(np.concatenate(list(_resample(values.double(), resamples, random))) for values in groups) / len(groups)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return 100 * float(low), 100 * float(high)


def _resample(values: Tensor, resamples: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield blocks of resampled means."""
    # Queries with equal values are interchangeable: drawing how often each distinct value occurs is the same
    # bootstrap, and hits have two distinct values or, paired, three.
    distinct, counts = (column.cpu().numpy() for column in values.unique(return_counts=True))
    step = max(1, _BLOCK // len(distinct))
    for start in range(0, resamples, step):
        draws = random.multinomial(len(values), counts / len(values), min(step, resamples - start))
        yield draws @ distinct / len(values)

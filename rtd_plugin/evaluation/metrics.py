"""Recall and average precision of each query, and their means, gains and confidence intervals over queries."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
    """
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


@dataclass(frozen=True)
class PerQueryMetrics:
    """Values of each metric for each query, whose mean over the queries is the metric.

    Attributes:
        values: name of a metric to (Q,) float64 values from 0 to 1.
        groups: names of the groups that each of the Q queries belongs to; metrics are also computed for each group.
        averages_groups: whether the metrics of all queries are the means of the groups' metrics.

    Raises:
        RTDError: a group is named like a metric, which it would replace in the results.
    """

    values: Mapping[str, Tensor]
    groups: Sequence[Sequence[str]]
    averages_groups: bool = False

    def __post_init__(self) -> None:
        if clash := self.values.keys() & {name for groups in self.groups for name in groups}:
            raise RTDError(f"a group of queries has the name of a metric, {min(clash)!r}: rename the group")

    def compute_metrics(self) -> dict[str, Any]:
        """Return each metric in percent, of all queries and, nested, of each group."""
        return self._apply_to_groups(lambda name, groups: _average([self.values[name][rows] for rows in groups]))

    def compute_intervals(self) -> dict[str, Any]:
        """Return `{"low", "high"}` for each metric, nested as `compute_metrics`: 95 % bootstrap intervals."""
        return self._apply_to_groups(lambda name, groups: _bootstrap([self.values[name][rows] for rows in groups]))

    def compute_gain(self, before: "PerQueryMetrics") -> dict[str, Any]:
        """Return the differences of all metrics to those of another encoder on the same queries.

        Returns:
            `{"difference", "low", "high"}` in percentage points for each metric, nested as `compute_metrics`; the 95 %
            intervals are of a paired bootstrap.
        """

        def gain(name: str, groups: Sequence[Tensor]) -> dict[str, float]:
            differences = [self.values[name][rows] - before.values[name][rows] for rows in groups]
            return {"difference": _average(differences), **_bootstrap(differences)}

        return self._apply_to_groups(gain)

    def _apply_to_groups(self, function: Callable[[str, Sequence[Tensor]], Any]) -> dict[str, Any]:
        """Apply a function to each metric with lists of query rows: those to average over, and each group's."""
        names = dict.fromkeys(name for groups in self.groups for name in groups)
        rows_of = {name: torch.tensor([name in groups for groups in self.groups]).nonzero()[:, 0] for name in names}
        averaged = list(rows_of.values()) if self.averages_groups else [torch.arange(len(self.groups))]
        return {metric: function(metric, averaged) for metric in self.values} | {
            name: {metric: function(metric, [rows]) for metric in self.values} for name, rows in sorted(rows_of.items())
        }


def _average(groups: Sequence[Tensor]) -> float:
    return 100 * (sum(values.mean().item() for values in groups) / len(groups))


def _bootstrap(groups: Sequence[Tensor]) -> dict[str, float]:
    low, high = bootstrap_interval(*groups)
    return {"low": low, "high": high}

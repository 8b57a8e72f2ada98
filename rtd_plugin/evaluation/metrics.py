"""Metrics of each query and each request, and their means, gains and confidence intervals."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rtd_plugin.errors import RTDError

SPREAD, WORST = "spread_of_", "worst_"  # before the name of a metric: of the wordings of a request
_BLOCK = 2**22  # draws held at once
_LOWER_IS_BETTER = ("wrong_at_", SPREAD)


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


def wrong_share_at(ranks: Sequence[Sequence[int]], counts: Sequence[int], k: int) -> Tensor:
    """Return the share of wrong answers among the first k, of as many as could be there.

    |wrong answers among the first k| / min(number of wrong answers, k), the negative recall of PinPoint (CVPR 2026);
    0 for a query without wrong answers.

    Args:
        ranks: of each query's wrong answers, from 1; those behind k may be left out.
        counts: how many wrong answers each query has.

    Returns:
        (Q,) float64, from 0 to 1.

    Example:
        >>> wrong_share_at([[1, 12], []], counts=[4, 0], k=10).tolist()
        [0.25, 0.0]
    """
    return torch.tensor(
        [sum(rank <= k for rank in row) / max(1, min(count, k)) for row, count in zip(ranks, counts, strict=True)],
        dtype=torch.float64,
    )


def is_lower_better(metric: str) -> bool:
    """Return whether less of a metric is better; the name of its group may stand before it.

    Example:
        >>> is_lower_better("wrong_at_10"), is_lower_better("unseen.worst_map_at_10")
        (True, False)
    """
    return metric.rpartition(".")[2].startswith(_LOWER_IS_BETTER)


def bootstrap_interval(
    *groups: Tensor,
    weights: Sequence[Tensor] | None = None,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a mean over requests (Efron and Tibshirani, 1993).

    Args:
        groups: (R,) values, such as 1 for a hit and 0 for a miss, or differences of two systems, which makes it a
            paired bootstrap. For several groups, the interval is of the mean of the groups' means.
        weights: (R,) of each group's values in its mean; by default all equal.
        resamples: how many times the values of each group are drawn with replacement.
        level: share of the resampled means within the interval.
        seed: equal seeds give equal intervals; the global random state is not used.

    Returns:
        Lower and upper end, in percent (of values from 0 to 1).
    """
    random = np.random.default_rng(seed)
    weights = [torch.ones(len(values)) for values in groups] if weights is None else weights
    pairs = zip(groups, weights, strict=True)
    means = sum(np.concatenate(list(_resample(*pair, resamples, random))) for pair in pairs) / len(groups)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return 100 * float(low), 100 * float(high)


def _resample(values: Tensor, weights: Tensor, resamples: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield blocks of resampled weighted means."""
    # Requests with equal values are interchangeable: drawing how often each distinct value occurs is the same
    # bootstrap, and hits have two distinct values or, paired, three.
    terms = torch.stack([values.double() * weights, weights.double()], dim=1)
    distinct, counts = (column.cpu().numpy() for column in terms.unique(dim=0, return_counts=True))
    step = max(1, _BLOCK // len(distinct))
    for start in range(0, resamples, step):
        draws = random.multinomial(len(values), counts / len(values), min(step, resamples - start))
        sums, totals = (draws @ distinct).T
        yield sums / totals


@dataclass(frozen=True)
class PerQueryMetrics:
    """Values of each metric for each query, whose mean over the queries is the metric.

    Queries with the same request are wordings of it. For metrics in `spread_of` there are two more:
    `spread_of_METRIC`, the mean standard deviation over a request's wordings, of the requests that have several, and
    `worst_METRIC`, the mean of each request's worst wording; of recall, that is the share of requests that are found in
    all wordings. Intervals are over requests, whose wordings are drawn together.

    Attributes:
        values: name of a metric to (Q,) float64 values from 0 to 1.
        groups: names of the groups that each of the Q queries belongs to; metrics are also computed for each group.
        averages_groups: whether the metrics of all queries are the means of the groups' metrics.
        requests: the request of each query, empty for a query with none but its own; none at all by default.
        spread_of: names of metrics.

    Raises:
        RTDError: a group is named like a metric, which it would replace in the results.
    """

    values: Mapping[str, Tensor]
    groups: Sequence[Sequence[str]]
    averages_groups: bool = False
    requests: Sequence[str] = ()
    spread_of: Sequence[str] = ()

    def __post_init__(self) -> None:
        if clash := set(self.metrics) & {name for groups in self.groups for name in groups}:
            raise RTDError(f"a group of queries has the name of a metric, {min(clash)!r}: rename the group")

    @property
    def metrics(self) -> list[str]:
        """The names of all metrics."""
        return [*self.values, *(f"{prefix}{name}" for prefix in (SPREAD, WORST) for name in self.spread_of)]

    def compute_metrics(self) -> dict[str, Any]:
        """Return each metric in percent, of all queries and, nested, of each group."""
        return self._apply_to_groups(lambda name, groups: _average([self._list_samples(name, rows) for rows in groups]))

    def compute_intervals(self) -> dict[str, Any]:
        """Return `{"low", "high"}` for each metric, nested as `compute_metrics`: 95 % bootstrap intervals."""
        return self._apply_to_groups(
            lambda name, groups: _bootstrap([self._list_samples(name, rows) for rows in groups])
        )

    def compute_gain(self, before: "PerQueryMetrics") -> dict[str, Any]:
        """Return the differences of all metrics to those of another encoder on the same queries.

        Returns:
            `{"difference", "low", "high"}` in percentage points for each metric, nested as `compute_metrics`; the 95 %
            intervals are of a paired bootstrap.
        """

        def gain(name: str, groups: Sequence[Tensor]) -> dict[str, float]:
            differences = []
            for rows in groups:
                (values, weights), (old_values, _) = (each._list_samples(name, rows) for each in (self, before))
                differences.append((values - old_values, weights))
            return {"difference": _average(differences), **_bootstrap(differences)}

        return self._apply_to_groups(gain)

    @cached_property
    def _request_indices(self) -> Tensor:
        """The index (Q,) of each query's request."""
        index_of: dict[str | int, int] = {}
        names = ((name or row) for row, name in enumerate(self.requests or [""] * len(self.groups)))
        return torch.tensor([index_of.setdefault(name, len(index_of)) for name in names])

    def _list_samples(self, metric: str, rows: Tensor) -> "_Samples":
        """Return the value and the weight of each request among some queries: their weighted mean is the metric."""
        values = self.values[metric.removeprefix(SPREAD).removeprefix(WORST)][rows]
        _, request, counts = self._request_indices[rows].unique(return_inverse=True, return_counts=True)
        means = values.new_zeros(len(counts)).index_add(0, request, values) / counts
        if metric.startswith(WORST):
            worst = torch.ones_like(means).scatter_reduce(0, request, values, "amin")
            return worst, torch.ones_like(means)
        if metric.startswith(SPREAD):
            variances = torch.zeros_like(means).index_add(0, request, (values - means[request]) ** 2) / counts
            several = counts > 1 if (counts > 1).any() else counts > 0
            return variances.sqrt()[several], torch.ones_like(means)[several]
        return means, counts.double()

    def _apply_to_groups(self, function: Callable[[str, Sequence[Tensor]], Any]) -> dict[str, Any]:
        """Return a function of each metric and lists of queries: those to average over, and each group's."""
        names = dict.fromkeys(name for groups in self.groups for name in groups)
        rows_of = {name: torch.tensor([name in groups for groups in self.groups]).nonzero()[:, 0] for name in names}
        averaged = list(rows_of.values()) if self.averages_groups else [torch.arange(len(self.groups))]

        def apply(rows: Sequence[Tensor]) -> dict[str, Any]:
            return {metric: function(metric, rows) for metric in self.metrics}

        return apply(averaged) | {name: apply([rows]) for name, rows in sorted(rows_of.items())}


_Samples = tuple[Tensor, Tensor]
"""Values (R,) and their weights."""


def _average(groups: Sequence[_Samples]) -> float:
    means = (((values * weights).sum() / weights.sum()).item() for values, weights in groups)
    return 100 * (sum(means) / len(groups))


def _bootstrap(groups: Sequence[_Samples]) -> dict[str, float]:
    low, high = bootstrap_interval(*(values for values, _ in groups), weights=[weights for _, weights in groups])
    return {"low": low, "high": high}

"""Figures per query, and what they come to: recall, mAP, gains and confidence intervals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation.metrics import average_precision_at, bootstrap_interval, hits_at
from rtd_plugin.evaluation.ranking import Rankings


@dataclass(frozen=True)
class PerQueryMetrics:
    """Each metric's figure for each query: what a mean over the queries is the metric of.

    Attributes:
        values: name of a metric to (Q,) float64 figures from 0 to 1.
        groups: Q collections of names; metrics are also given for the queries of each group apart.
        averages_groups: whether the metrics of all queries are the means of the groups' metrics.
    """

    values: Mapping[str, Tensor]
    groups: Sequence[Sequence[str]]
    averages_groups: bool = False

    def compute_metrics(self) -> dict[str, Any]:
        """Each metric in percent, over all queries and, nested, over each group's."""
        return self._over(lambda name, parts: _mean([self.values[name][part] for part in parts]))

    def compute_intervals(self) -> dict[str, Any]:
        """As `metrics`, with `{"low", "high"}` for each: a bootstrap's over queries, 95 %."""
        return self._over(lambda name, parts: _ends([self.values[name][part] for part in parts]))

    def compute_gain(self, other: "PerQueryMetrics") -> dict[str, Any]:
        """Difference of each metric to another encoder's on the same queries, in points.

        Returns:
            As `metrics`, with `{"difference", "low", "high"}` for each: the interval is a paired bootstrap's, 95 %.
        """

        def gain(name: str, parts: Sequence[Tensor]) -> dict[str, float]:
            differences = [self.values[name][part] - other.values[name][part] for part in parts]
            return {"difference": _mean(differences), **_ends(differences)}

        return self._over(gain)

    def _over(self, figure: Callable[[str, Sequence[Tensor]], Any]) -> dict[str, Any]:
        """A figure of each metric from the queries of all parts that are averaged, and of each group's."""
        if not self.groups:
            raise RTDError("there are no metrics without queries; check the benchmark's files")
        names = dict.fromkeys(name for groups in self.groups for name in groups)
        chosen = {name: torch.tensor([name in groups for groups in self.groups]).nonzero()[:, 0] for name in names}
        whole = list(chosen.values()) if self.averages_groups else [torch.arange(len(self.groups))]
        return {metric: figure(metric, whole) for metric in self.values} | {
            name: {metric: figure(metric, [queries]) for metric in self.values}
            for name, queries in sorted(chosen.items())
        }


def compute_per_query_metrics(
    rankings: Rankings,
    subset: Rankings | None,
    groups: Sequence[Sequence[str]],
    *,
    recall_at: Sequence[int],
    subset_recall_at: Sequence[int] = (),
    map_at: Sequence[int] = (),
    averages_groups: bool = False,
) -> PerQueryMetrics:
    """The figures of Q queries from their rankings in the gallery and, where there are any, in their subsets."""
    values = {f"recall_at_{k}": hits_at(rankings.first, k) for k in recall_at}
    if subset is not None:
        values |= {f"subset_recall_at_{k}": hits_at(subset.first, k) for k in subset_recall_at}
    values |= {f"map_at_{k}": average_precision_at(rankings.ranks, k) for k in map_at}
    return PerQueryMetrics(values, groups, averages_groups)


def _mean(parts: Sequence[Tensor]) -> float:
    return 100 * (sum(part.mean().item() for part in parts) / len(parts))


def _ends(parts: Sequence[Tensor]) -> dict[str, float]:
    low, high = bootstrap_interval(*parts)
    return {"low": low, "high": high}

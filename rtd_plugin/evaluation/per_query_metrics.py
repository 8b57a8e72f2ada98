"""Metrics of each query, and their means, gains and confidence intervals over queries."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rtd_plugin.evaluation.metrics import bootstrap_interval


@dataclass(frozen=True)
class PerQueryMetrics:
    """Values of each metric for each query, whose mean over the queries is the metric.

    Attributes:
        values: name of a metric to (Q,) float64 values from 0 to 1.
        groups: names of the groups that each of the Q queries belongs to; metrics are also computed for each group.
        averages_groups: whether the metrics of all queries are the means of the groups' metrics.
    """

    values: Mapping[str, Tensor]
    groups: Sequence[Sequence[str]]
    averages_groups: bool = False

    def compute_metrics(self) -> dict[str, Any]:
        """Return each metric in percent, of all queries and, nested, of each group."""
        return self._over_groups(lambda name, groups: _average([self.values[name][rows] for rows in groups]))

    def compute_intervals(self) -> dict[str, Any]:
        """Return `{"low", "high"}` for each metric, nested as `compute_metrics`: 95 % bootstrap intervals."""
        return self._over_groups(lambda name, groups: _bootstrap([self.values[name][rows] for rows in groups]))

    def compute_gain(self, before: "PerQueryMetrics") -> dict[str, Any]:
        """Return the differences of all metrics to those of another encoder on the same queries.

        Returns:
            `{"difference", "low", "high"}` in percentage points for each metric, nested as `compute_metrics`; the 95 %
            intervals are of a paired bootstrap.
        """

        def gain(name: str, groups: Sequence[Tensor]) -> dict[str, float]:
            differences = [self.values[name][rows] - before.values[name][rows] for rows in groups]
            return {"difference": _average(differences), **_bootstrap(differences)}

        return self._over_groups(gain)

    def _over_groups(self, function: Callable[[str, Sequence[Tensor]], Any]) -> dict[str, Any]:
        """Return a function of each metric and lists of queries: those to average over, and each group's."""
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

"""How people write what files and programs call otherwise."""

from collections.abc import Mapping
from typing import Any

_METRICS = {"subset_recall_at_": "subset R@", "recall_at_": "R@", "map_at_": "mAP@"}


def short_metric(metric: str) -> str:
    """A metric's name for a table's head: `R@10` for `recall_at_10`."""
    for name, short in _METRICS.items():
        if metric.startswith(name):
            return short + metric.removeprefix(name)
    return metric


def row_label(row: Mapping[str, Any], tuned: int) -> str:
    """What one row of results is, for a table with so many tuned text encoders."""
    if row["query"] != "composed":
        return row["query"]
    if row["weights"] is None:
        return "composed, frozen"
    return "composed, tuned" if tuned == 1 else f"composed, {row['name']}"


def in_order(comparison: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows of a comparison's figures as tables have them: from what knows least to what knows most."""
    lower = [row for row in comparison["baselines"] if row["query"] != "target caption"]
    upper = [row for row in comparison["baselines"] if row["query"] == "target caption"]
    return [*lower, *comparison["results"], *upper]

"""The tables of a comparison, as the terminal and the report's page show them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

_SHORT_METRICS = {"subset_recall_at_": "subset R@", "recall_at_": "R@", "map_at_": "mAP@"}


@dataclass(frozen=True)
class Cell:
    """A metric in percent, or a gain in points, with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def trend(self) -> Literal["up", "down", ""]:
        """Of a gain: its sign if the interval leaves out zero, else empty."""
        return "up" if self.low > 0 else "down" if self.high < 0 else ""


@dataclass(frozen=True)
class TableRow:
    """A row of a table.

    Attributes:
        label: the first column.
        kind: "tuned" for the metrics of a tuned text encoder, "gain" for a difference to the pre-trained one, else "".
        cells: one for each metric.
    """

    label: str
    kind: Literal["tuned", "gain", ""]
    cells: Sequence[Cell]


@dataclass(frozen=True)
class ComparisonTable:
    """The metrics of all queries, or of one group's.

    Attributes:
        group: the group; None for all queries.
        metrics: names of the metrics, one for each column of cells.
        rows: from the query that knows least to the one that knows most, then the gains.
    """

    group: str | None
    metrics: Sequence[str]
    rows: Sequence[TableRow]

    @property
    def title(self) -> str:
        return f"{self.group.replace('_', ' ')} queries" if self.group else "all queries"

    @property
    def heads(self) -> list[str]:
        """The metrics' short names."""
        return list(map(shorten_metric, self.metrics))


def tabulate_comparison(comparison: Mapping[str, Any]) -> list[ComparisonTable]:
    """Return a table of all queries and one of each group; none if the targets are secret.

    Args:
        comparison: as `Comparison.to_dict` returns it.
    """
    benchmark = comparison["benchmark"]
    rows = _sort_rows(comparison)
    if "metrics" not in rows[0]:
        return []
    tuned = [row for row in rows if row["weights"]]
    all_queries = rows[0]["metrics"][benchmark]
    metrics = [name for name, value in all_queries.items() if not isinstance(value, Mapping)]
    tables = []
    for group in [None, *(name for name in all_queries if name not in metrics)]:
        table_rows = []
        for row in rows:
            values, intervals = _of_group(row["metrics"], group), _of_group(row["intervals"], group)
            cells = [Cell(values[name], intervals[name]["low"], intervals[name]["high"]) for name in metrics]
            table_rows.append(TableRow(label_row(row, len(tuned)), "tuned" if row["weights"] else "", cells))
        for row in tuned:
            gain = _of_group(row["gain"], group)
            cells = [Cell(gain[name]["difference"], gain[name]["low"], gain[name]["high"]) for name in metrics]
            table_rows.append(TableRow(f"gain of {'tuning' if len(tuned) == 1 else row['name']}", "gain", cells))
        tables.append(ComparisonTable(group, metrics, table_rows))
    return tables


def _of_group(values: Mapping[str, Any], group: str | None) -> Mapping[str, Any]:
    """Return one group's values, or those of all queries, of the only benchmark in `values`."""
    (of_benchmark,) = values.values()
    return of_benchmark[group] if group else of_benchmark


def _sort_rows(comparison: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the rows of a comparison, from the query that knows least to the one that knows most."""
    below = [row for row in comparison["baselines"] if row["query"] != "target caption"]
    above = [row for row in comparison["baselines"] if row["query"] == "target caption"]
    return [*below, *comparison["results"], *above]


def shorten_metric(metric: str) -> str:
    """Return a metric's name for the head of a column.

    Example:
        >>> shorten_metric("subset_recall_at_10")
        'subset R@10'
    """
    for name, short in _SHORT_METRICS.items():
        if metric.startswith(name):
            return short + metric.removeprefix(name)
    return metric


def label_row(row: Mapping[str, Any], tuned: int) -> str:
    """Return the label of a row of results in a table with `tuned` tuned text encoders.

    Example:
        >>> label_row({"query": "composed", "weights": "runs/mine", "name": "mine"}, tuned=2)
        'composed, mine'
    """
    if row["query"] != "composed":
        return row["query"]
    if row["weights"] is None:
        return "composed, frozen"
    return "composed, tuned" if tuned == 1 else f"composed, {row['name']}"

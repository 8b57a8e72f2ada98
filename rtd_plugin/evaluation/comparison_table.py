"""The tables of a comparison, as the terminal and the report's page show them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rtd_plugin.evaluation.metrics import is_lower_better

_SHORT_NAMES = {
    "spread_of_": "spread ",
    "worst_": "worst ",
    "subset_recall_at_": "subset R@",
    "recall_at_": "R@",
    "map_at_": "mAP@",
    "wrong_at_": "wrong@",
}
_ORDER = ("image only", "text only", "composed", "target caption")  # from the query that knows least


@dataclass(frozen=True)
class Cell:
    """A metric in percent, or a gain in points, with the ends of its 95 % interval."""

    value: float
    low: float
    high: float
    lower_is_better: bool = False

    @property
    def trend(self) -> Literal["better", "worse", ""]:
        """Of a gain: whether it is one if the interval leaves out zero, else empty."""
        if self.low <= 0 <= self.high:
            return ""
        return "better" if (self.low > 0) != self.lower_is_better else "worse"


@dataclass(frozen=True)
class TableRow:
    """A row of a table: metrics, of a "tuned" text encoder or not, or a "gain" over the pre-trained one."""

    label: str
    kind: Literal["tuned", "gain", ""]
    cells: Sequence[Cell]


@dataclass(frozen=True)
class ComparisonTable:
    """The metrics of all queries, or of one group's: a column for each metric, first the metrics and then the gains."""

    group: str | None
    metrics: Sequence[str]
    rows: Sequence[TableRow]

    @property
    def title(self) -> str:
        return f"{self.group.replace('_', ' ')} queries" if self.group else "all queries"

    @property
    def lowest_gain(self) -> float:
        """The lowest gain in any metric by any text encoder; 0 without tuned ones."""
        gains = (cell for row in self.rows if row.kind == "gain" for cell in row.cells)
        return min((-cell.value if cell.lower_is_better else cell.value for cell in gains), default=0)

    @property
    def heads(self) -> list[str]:
        """The metrics' short names."""
        return list(map(shorten_metric, self.metrics))


def tabulate_comparison(comparison: Mapping[str, Any]) -> list[ComparisonTable]:
    """Return a table of all queries, and one of each group, largest losses first; none if the targets are secret.

    Args:
        comparison: as `Comparison.to_dict` returns it.
    """
    benchmark = comparison["benchmark"]
    rows = sorted([*comparison["baselines"], *comparison["results"]], key=lambda row: _ORDER.index(row["query"]))
    if "metrics" not in rows[0]:
        return []
    all_queries = rows[0]["metrics"][benchmark]
    metrics = [name for name, value in all_queries.items() if not isinstance(value, Mapping)]

    def tabulate(group: str | None) -> ComparisonTable:
        def select(values: Mapping[str, Any]) -> Mapping[str, Any]:
            return values[benchmark][group] if group else values[benchmark]

        table_rows = []
        for row in rows:
            values, intervals = select(row["metrics"]), select(row["intervals"])
            cells = [Cell(values[name], intervals[name]["low"], intervals[name]["high"]) for name in metrics]
            table_rows.append(TableRow(row["label"], "tuned" if row["weights"] else "", cells))
        tuned = [row for row in rows if row["weights"]]
        for row in tuned:
            gain = select(row["gain"])
            cells = [
                Cell(gain[name]["difference"], gain[name]["low"], gain[name]["high"], is_lower_better(name))
                for name in metrics
            ]
            table_rows.append(TableRow(f"gain of {'tuning' if len(tuned) == 1 else row['name']}", "gain", cells))
        return ComparisonTable(group, metrics, table_rows)

    groups = [tabulate(name) for name in all_queries if name not in metrics]
    return [tabulate(None), *sorted(groups, key=lambda table: table.lowest_gain)]


def shorten_metric(metric: str) -> str:
    """Return a metric's name for the head of a column.

    Example:
        >>> shorten_metric("subset_recall_at_10")
        'subset R@10'
    """
    for name, short in _SHORT_NAMES.items():
        if metric.startswith(name):
            return short + shorten_metric(metric.removeprefix(name))
    return metric

"""Tables of what tuning gained, from the same figures as `--json`."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from rtd_plugin.evaluation.labels import in_order, row_label, short_metric

COLUMNS = 4  # metrics beside each other: they fit into 80 columns
GROUPS = 4  # groups of queries that a terminal shows


def comparison_tables(comparison: Mapping[str, Any]) -> list[Table]:
    """A section for all queries and for each group of them, in a table for each four metrics; of many groups, none.

    Args:
        comparison: as `Comparison.to_dict` gives it.
    """
    first = comparison["results"][0]
    if "metrics" not in first:
        return []
    whole = first["metrics"][comparison["benchmark"]]
    metrics = [name for name, value in whole.items() if not isinstance(value, Mapping)]
    groups = [name for name in whole if name not in metrics]
    if len(metrics) > COLUMNS:
        families = {name.rpartition("_")[0]: None for name in metrics}
        parts = [[name for name in metrics if name.rpartition("_")[0] == family] for family in families]
    else:
        parts = [metrics]
    return [_table(comparison, part, groups if len(groups) <= GROUPS else []) for part in parts]


def _table(comparison: Mapping[str, Any], metrics: Sequence[str], groups: Sequence[str]) -> Table:
    benchmark = comparison["benchmark"]
    what = "mAP" if metrics[0].startswith("map") else "recall"
    table = Table("query", title=f"{benchmark}: {what} in percent", title_justify="left")
    for metric in metrics:
        table.add_column(short_metric(metric), justify="right")
    tuned = [row for row in comparison["results"] if row["weights"]]
    for group in [None, *groups]:

        def figures(row: Mapping[str, Any], key: str, group: str | None = group) -> list[Any]:
            values = row[key][benchmark][group] if group else row[key][benchmark]
            return [values[metric] for metric in metrics]

        table.add_row(f"{group} queries" if group else "all queries", style="bold")
        for row in in_order(comparison):
            table.add_row(f"  {row_label(row, len(tuned))}", *(f"{value:.1f}" for value in figures(row, "metrics")))
        for row in tuned:
            gains = figures(row, "gain")
            of = "tuning" if len(tuned) == 1 else row["name"]
            table.add_row(f"  gain of {of}", *(f"{value['difference']:+.1f}" for value in gains), style="green")
            intervals = (f"{value['low']:+.1f}…{value['high']:+.1f}" for value in gains)
            table.add_row("    95 % interval", *intervals, style="green")
        table.add_section()
    return table

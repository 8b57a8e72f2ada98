"""The table of what tuning gained, from the same figures as `--json`."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table


def comparison_table(comparison: Mapping[str, Any]) -> Table:
    """A section for all queries and for each group of them; the usual four metrics fit into 80 columns.

    Args:
        comparison: as `Comparison.to_dict` gives it.
    """
    benchmark = comparison["benchmark"]
    rows = [(row["query"], row["weights"], row["metrics"][benchmark]) for row in comparison["results"]]
    gain = comparison["gain"][benchmark]
    metrics = [name for name, value in gain.items() if "difference" in value]
    groups = [name for name in gain if name not in metrics]
    table = Table("query", title=f"{benchmark}: recall in percent", title_justify="left")
    for metric in metrics:
        table.add_column(_short(metric), justify="right")
    for group in [None, *groups]:
        table.add_row(f"{group} queries" if group else "all queries", style="bold")
        for query, weights, values in rows:
            values = values[group] if group else values
            cells = (f"{values[metric]:.1f}" for metric in metrics)
            table.add_row(_label(query, tuned=weights is not None), *cells)
        gains = [(gain[group] if group else gain)[metric] for metric in metrics]
        table.add_row("  gain of tuning", *(f"{value['difference']:+.1f}" for value in gains), style="green")
        intervals = (f"{value['low']:+.1f}…{value['high']:+.1f}" for value in gains)
        table.add_row("    95 % interval", *intervals, style="green", end_section=True)
    return table


def _label(query: str, tuned: bool) -> str:
    return f"  {query}, {'tuned' if tuned else 'frozen'}" if query == "composed" else f"  {query}"


def _short(metric: str) -> str:
    return metric.replace("subset_recall_at_", "subset R@").replace("recall_at_", "R@")

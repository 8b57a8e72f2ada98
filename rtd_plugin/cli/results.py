"""Tables of what tuning gained, from the same figures as `--json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rtd_plugin.evaluation.comparison_table import Cell, ComparisonTable

COLUMNS = 4  # metrics side by side: they fit into 80 columns
GROUPS = 4  # groups of queries that a terminal shows
STYLES = {"up": "green", "down": "red", "": ""}


def comparison_tables(comparison: Mapping[str, Any]) -> list[Table]:
    """Return a table for each family of metrics, with a section for all queries and, of up to four groups, for each.

    Args:
        comparison: as `Comparison.to_dict` returns it.
    """
    from rtd_plugin.workflows.evaluate import tabulate_comparison  # imports torch, which `--help` does not need

    sections = tabulate_comparison(comparison)
    if not sections:
        return []
    metrics = sections[0].metrics
    families: dict[str, list[int]] = {}
    for column, metric in enumerate(metrics):
        families.setdefault(metric.rpartition("_")[0] if len(metrics) > COLUMNS else "", []).append(column)
    shown = sections if len(sections) - 1 <= GROUPS else sections[:1]
    return [_draw_table(comparison["benchmark"], shown, columns) for columns in families.values()]


def _draw_table(benchmark: str, sections: Sequence[ComparisonTable], columns: Sequence[int]) -> Table:
    metrics = [sections[0].metrics[column] for column in columns]
    family = "mAP" if metrics[0].startswith("map") else "recall"
    table = Table("query", title=f"{benchmark}: {family} in percent", title_justify="left")
    for column in columns:
        table.add_column(sections[0].heads[column], justify="right")
    for section in sections:
        table.add_row(section.title, style="bold")
        for row in section.rows:
            cells = [row.cells[column] for column in columns]
            if row.kind == "gain":
                table.add_row(f"  {row.label}", *(_color(cell, f"{cell.value:+.1f}") for cell in cells))
                table.add_row(
                    "    95 % interval", *(_color(cell, f"{cell.low:+.1f}…{cell.high:+.1f}") for cell in cells)
                )
            else:
                table.add_row(f"  {row.label}", *(f"{cell.value:.1f}" for cell in cells))
        table.add_section()
    return table


def _color(cell: Cell, text: str) -> Text:
    return Text(text, style=STYLES[cell.trend])

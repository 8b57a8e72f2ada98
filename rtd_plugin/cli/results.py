"""Tables of what tuning gained, from the same figures as `--json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from rtd_plugin.printable import count_noun

if TYPE_CHECKING:
    from rtd_plugin.evaluation.comparison_table import Cell, ComparisonTable, TableRow

COLUMNS = 4  # metrics side by side: they fit into 80 columns
GROUPS = 4  # groups of queries that have a section each; of more, only the gains are shown
FAMILIES = {  # of metrics, by how their names begin; small ones share a table
    "recall": "recall",
    "subset_recall": "subset recall",
    "map": "mAP",
    "wrong": "wrong answers",
    "spread": "spread over wordings",
    "worst": "spread over wordings",
}
FEW = 100  # queries
STYLES = {"better": "green", "worse": "red", "": ""}


def comparison_tables(comparison: Mapping[str, Any]) -> list[Table]:
    """Return tables of related metrics, with sections for all queries and for groups, largest losses first.

    Args:
        comparison: as `Comparison.to_dict` returns it.
    """
    from rtd_plugin.workflows.evaluate import tabulate_comparison  # imports torch, which `--help` does not need

    sections = tabulate_comparison(comparison)
    tables = _group_columns(sections[0].metrics if sections else ())
    drawn = [_draw_table(f"{comparison['title']}: {name} in percent", sections, columns) for name, columns in tables]
    if drawn and (queries := comparison["queries"]) < FEW:
        drawn[-1].caption = f"{count_noun(queries, 'query')} only: rough figures"
        drawn[-1].caption_justify = "left"
    return drawn


def search_table(search: Mapping[str, Any]) -> Table:
    """Return a table of a search for a learning rate: the metric that selects by learning rate and steps.

    Args:
        search: as `rtd_plugin.training.rate_search.describe_search` returns it.
    """
    from rtd_plugin.workflows.run_report import list_search_steps, shorten_metric, tabulate_search  # imports torch

    title = f"{shorten_metric(search['metric'])} in percent by learning rate, {search['before']:.1f} before"
    table = Table("learning rate", title=title, title_justify="left", min_width=len(title))
    for steps in list_search_steps(search):
        table.add_column(count_noun(steps, "step"), justify="right")
    for row in tabulate_search(search):
        table.add_row(
            f"{row['rate']} (chosen)" if row["chosen"] else row["rate"],
            *row["cells"],
            style="bold" if row["chosen"] else "",
        )
    return table


def _group_columns(metrics: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Return the families of metrics that share a table: their names, and the columns."""
    families: dict[str, list[int]] = {}
    for column, metric in enumerate(metrics):
        name = next(name for prefix, name in FAMILIES.items() if metric.startswith(prefix))
        families.setdefault(name, []).append(column)
    tables: list[tuple[str, list[int]]] = []
    for name, columns in families.items():
        if tables and len(tables[-1][1]) + len(columns) <= COLUMNS:
            before, some = tables.pop()
            columns = some + columns
            name = before if name.endswith(before) else f"{before}, {name}"  # subset recall is recall
        tables.append((name, columns))
    return tables


def _draw_table(title: str, sections: Sequence[ComparisonTable], columns: Sequence[int]) -> Table:
    table = Table("query", title=title, title_justify="left", min_width=len(title))
    for column in columns:
        table.add_column(sections[0].heads[column], justify="right")

    def add_row(label: str, row: TableRow) -> None:
        cells = [row.cells[column] for column in columns]
        is_gain = row.kind == "gain"
        table.add_row(
            label, *(_color(cell, f"{cell.value:+.1f}") if is_gain else f"{cell.value:.1f}" for cell in cells)
        )

    all_queries, *groups = sections
    for section in sections if len(groups) <= GROUPS else [all_queries]:
        table.add_row(section.title, style="bold")
        for row in section.rows:
            add_row(f"  {row.label}", row)
            if row.kind == "gain":
                cells = [row.cells[column] for column in columns]
                intervals = (_color(cell, f"{cell.low:+.1f}…{cell.high:+.1f}") for cell in cells)
                table.add_row("    95 % interval", *intervals)
        table.add_section()
    gains = [row.label for row in all_queries.rows if row.kind == "gain"] or ["composed, frozen"]
    for label in gains if len(groups) > GROUPS else ():
        table.add_row(f"{label} by group", style="bold")
        for section in groups:
            add_row(f"  {section.title}", next(row for row in section.rows if row.label == label))
        table.add_section()
    return table


def _color(cell: Cell, text: str) -> Text:
    return Text(text, style=STYLES[cell.trend])

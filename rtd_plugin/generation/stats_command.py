"""`rtd-plugin triplets stats`."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from rtd_plugin.cli.console import out, print_lines, progress, show
from rtd_plugin.cli.options import COLUMNS, FILE, JSON
from rtd_plugin.printable import count_noun

ROWS = 10  # of each table


@click.command("triplets stats")
@click.argument("file", type=FILE)
@COLUMNS
@click.option(
    "--real",
    multiple=True,
    type=FILE,
    help="Conditions that people wrote, to compare with: annotations of CIRR, CIRCO, FashionIQ or GeneCIS, or text.",
)
@click.option("--page", type=FILE, help="Also write an HTML page with plots to this file.")
@JSON
def command(file: Path, as_json: bool, **options: Any) -> None:
    """Describe the triplets of FILE: lengths, openings, edits, and the distance from conditions that people wrote.

    Broken records are left out; `rtd-plugin triplets check` lists them.

    \b
    Example:
      rtd-plugin triplets stats triplets.jsonl --real cirr/captions/cap.rc2.val.json --page stats.html
    """
    from rtd_plugin.generation.workflows import describe_triplets  # imports torch, which `--help` does not need

    show(describe_triplets(file, progress=partial(progress, shown=not as_json), **options), as_json, _show)


def _show(stats: Mapping[str, Any]) -> None:
    console = out()
    table = Table("text", title=count_noun(stats["triplets"], "triplet"), title_justify="left")
    for heading in ("distinct", "tokens: least", "median", "most"):
        table.add_column(heading, justify="right")
    for name, counts in stats["tokens"].items():
        low, middle, high = (_find_quantile(counts, q) for q in (0, 0.5, 1))
        table.add_row(name, f"{stats['distinct'][name]:,}", str(low), str(middle), str(high))
    console.print(table)
    table = Table("openings", "", "edits", "", title=f"most frequent, of {stats['triplets']:,}", title_justify="left")
    for opening, edit in zip(stats["openings"][:ROWS], stats["edits"][:ROWS], strict=False):
        change = f"{edit['from'] or '+'} → {edit['to'] or '–'}"
        table.add_row(opening["words"], f"{opening['count']:,}", change, f"{edit['count']:,}")
    console.print(table)
    if stats["real"]:
        table = Table("distance from", title="Jensen–Shannon divergence in bits", title_justify="left")
        for heading in ("length", "first word", "vocabulary", "mean words", "theirs", "words known"):
            table.add_column(heading, justify="right")
        for name, row in stats["real"].items():
            figures = (f"{row[key]:.3f}" for key in ("length", "openings", "vocabulary"))
            known = f"{100 * row['words_known']:.1f} %"
            table.add_row(name, *figures, str(row["mean_words"]), str(row["mean_words_real"]), known)
        console.print(table)
        table = Table("nearest real conditions", "real", "cosine", title_justify="left")
        for row in stats["nearest"][:ROWS]:
            table.add_row(row["condition"], row["real"], f"{row['similarity']:.2f}")
        console.print(table)
    if stats["left_out"]:
        print_lines(f"Left out {count_noun(stats['left_out'], 'broken record')}.")
    if "page" in stats:
        print_lines(f"Wrote {stats['page']}.")


def _find_quantile(counts: dict[int, int], q: float) -> int:
    """Return a quantile of values, given their counts in ascending order of values."""
    remaining = q * (sum(counts.values()) - 1)
    for value, count in counts.items():
        if remaining < count:
            return value
        remaining -= count
    return 0

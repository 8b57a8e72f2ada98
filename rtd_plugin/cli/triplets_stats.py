"""`rtd-plugin triplets stats`."""

from pathlib import Path
from typing import Any

import click
from rich.table import Table

from rtd_plugin.cli.console import out, print_json, progress
from rtd_plugin.cli.triplets_check import COLUMNS, column_names

ROWS = 10


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@COLUMNS
@click.option(
    "--real",
    "real_files",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Conditions that people wrote, to compare with: annotations of CIRR, CIRCO, FashionIQ or GeneCIS, or text.",
)
@click.option("--page", type=click.Path(path_type=Path), help="Also write a page with plots here: HTML.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    file: Path, columns: tuple[str, ...], real_files: tuple[Path, ...], page: Path | None, as_json: bool
) -> None:
    """Say what the triplets of FILE are like: lengths, openings, edits, and how near to conditions that people wrote.

    Records that are no triplets are left out; `rtd-plugin triplets check` lists them.

    \b
    Example:
      rtd-plugin triplets stats triplets.jsonl --real cirr/captions/cap.rc2.val.json --page stats.html
    """
    # These bring torch along, which `--help` does not wait for.
    from rtd_plugin.generation.statistics import read_conditions, statistics
    from rtd_plugin.triplets.json_source import ANY
    from rtd_plugin.triplets.records import records
    from rtd_plugin.triplets.sources import load_records

    names = column_names(columns, file) or ANY
    real = {path.name: read_conditions(path) for path in real_files}
    with progress("Reading", shown=not as_json) as advance:
        found = load_records(str(file), records(file, names), names, skip_invalid=True)
        advance(len(found.triplets), len(found.triplets))
    stats = {"file": str(file), "left_out": found.skipped, **statistics(found.triplets, real)}
    if page is not None:
        _write_page(page, file.name, stats)
        stats["page"] = str(page)
    if as_json:
        print_json(stats)
    else:
        _show(stats)


def _write_page(path: Path, name: str, stats: dict[str, Any]) -> None:
    from importlib.resources import files

    from jinja2 import Environment

    from rtd_plugin.files import write_text

    template = files("rtd_plugin.triplets").joinpath("stats.html").read_text(encoding="utf-8")
    write_text(path, Environment(autoescape=True).from_string(template).render(name=name, stats=stats))


def _show(stats: dict[str, Any]) -> None:
    console = out()
    table = Table("text", title=f"{stats['triplets']:,} triplets", title_justify="left")
    for heading in ("distinct", "tokens: least", "median", "most"):
        table.add_column(heading, justify="right")
    for name, counts in stats["tokens"].items():
        low, middle, high = (_quantile(counts, q) for q in (0, 0.5, 1))
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
        console.print(f"Left out {stats['left_out']:,} records that are no triplets.")
    if "page" in stats:
        console.print(f"Wrote {stats['page']}.", soft_wrap=True)


def _quantile(counts: dict[int, int], q: float) -> int:
    left = q * (sum(counts.values()) - 1)
    for value, number in counts.items():
        if left < number:
            return value
        left -= number
    return 0

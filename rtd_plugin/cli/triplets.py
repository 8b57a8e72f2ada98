"""`rtd-plugin triplets`, which the plugin `generation` adds commands to."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from rtd_plugin.cli.console import err, out, print_lines, progress, show
from rtd_plugin.cli.groups import ExtensibleGroup
from rtd_plugin.cli.options import COLUMNS, FILE, JSON
from rtd_plugin.printable import count_noun

SHOWN = 20  # problems listed without --all
NEW_FIRST = 85.0  # percent of conditions that name the new first or alone; above it a note is printed
FEW = 100  # records; shares of fewer mean little


@click.group(cls=ExtensibleGroup)
def command() -> None:
    """Build text triplets from captions, check them, and describe them.

    \b
    Example:
      rtd-plugin triplets check triplets.jsonl
    """


@command.command()
@click.argument("file", type=FILE)
@COLUMNS
@click.option("--adapter", help="Check that conditions fit into the prompt of this method.")
@click.option("--fix", type=FILE, help="Write a copy without the problems: JSON lines.")
@click.option("--all", "show_all", is_flag=True, help=f"List every problem, not only the first {SHOWN}.")
@JSON
@click.pass_context
def check(context: click.Context, file: Path, fix: Path | None, show_all: bool, as_json: bool, **options: Any) -> None:
    """List what is wrong with the triplets of FILE: JSON in any shape of the source `json`, CSV or Parquet.

    The exit code is 1 if there is a problem. In the copy that --fix writes, placeholder characters are removed from the
    texts, and records with other problems are left out.

    \b
    Examples:
      rtd-plugin triplets check triplets.jsonl
      rtd-plugin triplets check triplets.csv --column reference=before --column target=after --fix clean.jsonl
    """
    from rtd_plugin.workflows.check import check_triplets

    result = check_triplets(
        file,
        fix=fix,
        max_listed=None if show_all or as_json else SHOWN,
        progress=partial(progress, shown=not as_json),
        **options,
    )
    show(result, as_json, _show)
    if result["sound"] < result["records"] or not result["records"]:
        context.exit(1)


def _show(result: Mapping[str, Any]) -> None:
    from rtd_plugin.workflows.check import PROBLEMS

    for problem in result["list"]:
        detail = f" ({problem['detail']})" if problem["detail"] else ""
        print_lines(f"{result['file']}, {problem['place']}: {PROBLEMS[problem['kind']]}{detail}")
    unsound = result["records"] - result["sound"]
    title = f"{count_noun(result['records'], 'record')}, {unsound:,} with problems"
    table = Table("problem", title=title, title_justify="left")
    table.add_column("records", justify="right")
    for name, count in result["problems"].items():
        table.add_row(PROBLEMS[name], f"{count:,}")
    share = result["non_english_percent"]
    table.add_row("not English", "unknown" if share is None else f"{share} %")
    out().print(table)
    orders = result["order_percent"]
    shares = ", ".join(f"{order} {share} %" for order, share in orders.items() if share)
    print_lines(f"Conditions name the old and new content: {shares or 'nothing'}.")
    if orders["new first"] + orders["new alone"] > NEW_FIRST and result["records"] > FEW:
        print_lines("Few conditions name the old first: an encoder may learn to use whatever comes first.")
    if fixed := result.get("fixed"):
        print_lines(
            f"Wrote {count_noun(fixed['written'], 'triplet')} to {fixed['file']}: {fixed['repaired']:,} repaired, "
            f"{fixed['left_out']:,} left out."
        )
    elif unsound:
        err().print("Use --fix FILE to write a copy without them.")

"""`rtd-plugin triplets check`."""

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import click
from rich.table import Table

from rtd_plugin.cli.console import err, out, print_json, progress
from rtd_plugin.errors import UsageError

SHOWN = 20  # problems that are listed unless --all is given
COLUMNS = click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="TEXT=NAME",
    help="Where CSV or Parquet has a text: reference=…, condition=…, target=….",
)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@COLUMNS
@click.option("--fix", type=click.Path(path_type=Path), help="Write a copy here without the problems: JSON lines.")
@click.option("--all", "show_all", is_flag=True, help=f"List every problem, not the first {SHOWN} only.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def command(
    context: click.Context, file: Path, columns: tuple[str, ...], fix: Path | None, show_all: bool, as_json: bool
) -> None:
    """List what is wrong with the triplets of FILE: JSON in any of the shapes of the source `json`, CSV or Parquet.

    The exit code is 1 if there is a problem. A copy by --fix has placeholder characters taken out of its texts; records
    with other problems are left out of it.

    \b
    Examples:
      rtd-plugin triplets check triplets.jsonl
      rtd-plugin triplets check triplets.csv --column reference=before --column target=after --fix clean.jsonl
    """
    from rtd_plugin.triplets import checks
    from rtd_plugin.triplets.json_source import ANY
    from rtd_plugin.triplets.records import records

    names = column_names(columns, file) or ANY
    if fix is not None and fix.resolve() == file.resolve():
        raise UsageError(f"--fix {fix}: is the file that is checked; name another, so that nothing is lost")
    language = checks.language_of if importlib.util.find_spec("py3langid") else lambda text: None
    summary = checks.Checked()
    listed: list[dict[str, Any]] = []
    written = mended = 0
    with _copy(fix) as copy, progress("Checking", shown=not as_json) as advance:
        for place, triplet, problems, summary in checks.check(records(file, names), names, language):
            if summary.records % 1000 == 0:
                advance(summary.records, 0, f"{summary.records - summary.sound:,} with problems")
            if show_all or as_json or len(listed) < SHOWN:
                listed += [{"place": place, "kind": p.kind, "detail": p.detail} for p in problems]
            if copy is not None and triplet is not None:
                clean = checks.repaired(triplet, problems) if problems else triplet
                if clean is not None:
                    keys = (column[0] for column in ANY)
                    copy.write(json.dumps(dict(zip(keys, clean, strict=True)), ensure_ascii=False) + "\n")
                    written += 1
                    mended += bool(problems)
    told = summary.english + summary.other
    result = {
        "file": str(file),
        "records": summary.records,
        "sound": summary.sound,
        "problems": dict(sorted(summary.kinds.items())),
        "non_english_percent": round(100 * summary.other / told, 1) if told else None,
    }
    if fix is not None:
        result["fixed"] = {
            "file": str(fix),
            "written": written,
            "mended": mended,
            "left_out": summary.records - written,
        }
    if as_json:
        print_json({**result, "list": listed})
    else:
        _show(result, listed[: None if show_all else SHOWN], checks.KINDS)
    if summary.sound < summary.records or not summary.records:
        context.exit(1)


def column_names(columns: tuple[str, ...], file: Path) -> list[tuple[str, ...]] | None:
    """The columns that a user named, None where JSON's own keys hold.

    Raises:
        UsageError: a name is none of the three texts, or the option has another form.
    """
    from rtd_plugin.triplets.records import columns_of

    pairs = [column.partition("=") for column in columns]
    for name, equals, _ in pairs:
        if not equals:
            raise UsageError(f"--column {name}: expected TEXT=NAME, such as reference=caption")
    try:
        named = columns_of({name: value for name, _, value in pairs})
    except ValueError as error:
        raise UsageError(f"--column: {error}") from error
    return named if columns or file.suffix.lower() in (".csv", ".tsv", ".parquet") else None


@contextmanager
def _copy(path: Path | None) -> Iterator[TextIO | None]:
    if path is None:
        yield None
        return
    from rtd_plugin.files import write_atomically

    with write_atomically(path) as draft, draft.open("w", encoding="utf-8") as file:
        yield file


def _show(result: dict[str, Any], listed: list[dict[str, Any]], kinds: dict[str, str]) -> None:
    for problem in listed:
        detail = f" ({problem['detail']})" if problem["detail"] else ""
        out().print(f"{result['file']}, {problem['place']}: {kinds[problem['kind']]}{detail}", soft_wrap=True)
    wrong = result["records"] - result["sound"]
    title = f"{result['records']:,} records, {wrong:,} with problems"
    table = Table("problem", title=title, title_justify="left")
    table.add_column("records", justify="right")
    for kind, number in result["problems"].items():
        table.add_row(kinds[kind], f"{number:,}")
    share = result["non_english_percent"]
    table.add_row("not English", "not told" if share is None else f"{share} %")
    out().print(table)
    if fixed := result.get("fixed"):
        out().print(
            f"Wrote {fixed['written']:,} triplets to {fixed['file']}: {fixed['mended']:,} mended, "
            f"{fixed['left_out']:,} left out.",
            soft_wrap=True,
        )
    elif wrong:
        err().print("A copy without them: --fix FILE.")

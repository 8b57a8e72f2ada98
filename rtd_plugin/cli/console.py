"""The only module that prints: tables on stdout, progress and errors on stderr, all cleaned and redacted."""

import io
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.text import Text

from rtd_plugin.printable import dump_json, make_message, make_printable, read_api_key
from rtd_plugin.progress import Advance, ignore_progress

PLAIN_INTERVAL = 10.0  # seconds between lines when stderr is not a terminal


class PrintableConsole(Console):
    """A console that cleans all text; only its colours and progress bars have escape sequences."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Clean a string before it is measured, so that columns keep their width."""
        return super().render_str(make_printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Clean renderables other than strings."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=make_printable(segment.text))


def out() -> Console:
    """Return the console for results, on stdout; brackets and colons in paths are not markup."""
    return PrintableConsole(highlight=False, markup=False, emoji=False)


def err() -> Console:
    """Return the console for everything else, on stderr."""
    return PrintableConsole(stderr=True, highlight=False, markup=False, emoji=False)


def print_text(text: str, stderr: bool = False) -> None:
    """Print a text without wrapping or colours, its control characters escaped."""
    click.echo(make_printable(text), nl=False, err=stderr)


def print_lines(*lines: str) -> None:
    """Print lines of a result on stdout, not wrapped, so that paths and commands can be copied."""
    out().print("\n".join(lines), soft_wrap=True)


def announce_loading() -> None:
    """Say on a terminal that the command has started: importing torch takes seconds."""
    if sys.stderr.isatty() and os.environ.get("RANK", "0") == "0":
        print_text("Loading …\n", stderr=True)


def print_json(value: Any) -> None:
    """Print the JSON object of a command with `--json` on stdout."""
    text = dump_json(value)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = dump_json(value, ascii_only=True)
    click.echo(text)


def print_failure(error: click.ClickException) -> None:
    """Print click's message for an error, with its usage hint."""
    shown = io.StringIO()
    error.show(shown)
    print_text(make_message(shown.getvalue().rstrip()) + "\n", stderr=True)


def show(result: Mapping[str, Any], as_json: bool, show_table: Callable[[Mapping[str, Any]], None]) -> None:
    """Print a command's result: as JSON with `--json`, otherwise the way `show_table` does."""
    if as_json:
        print_json(result)
    else:
        show_table(result)


@contextmanager
def clean_messages() -> Iterator[None]:
    """Within the block, clean what `logging` and `warnings` print for any library, and redact the API key.

    Log messages of rtd_plugin are shown as plain lines on stderr.
    """
    read_api_key()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an escape for characters that the terminal cannot show
    record, format_warning = logging.getLogRecordFactory(), warnings.formatwarning
    logging.setLogRecordFactory(_PrintableRecord)
    warnings.formatwarning = lambda *values, **options: make_message(format_warning(*values, **options))
    log, handler = logging.getLogger("rtd_plugin"), _PlainLines()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)
        logging.setLogRecordFactory(record)
        warnings.formatwarning = format_warning


class _PrintableRecord(logging.LogRecord):
    def getMessage(self) -> str:
        return make_message(super().getMessage())


class _PlainLines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print_text(record.getMessage() + "\n", stderr=True)


@contextmanager
def progress(description: str, shown: bool = True) -> Iterator[Advance]:
    """Show a progress bar on a terminal, or a plain line now and then elsewhere (`rtd_plugin.progress.Progress`)."""
    if not shown:
        yield ignore_progress
    elif sys.stderr.isatty():
        with _show_bar(description) as advance:
            yield advance
    else:
        yield _make_line_printer(description)


@contextmanager
def _show_bar(description: str) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err()) as bar:
        task_id = bar.add_task(description, total=None, note="")

        def advance(done: int, total: int, note: str = "") -> None:
            bar.update(task_id, completed=done, total=total or None, note=note)

        yield advance
        task = bar.tasks[0]
        if task.total is None:  # nothing was left to do, or the total stayed unknown
            bar.update(task_id, total=task.completed, visible=task.completed > 0)


def _make_line_printer(description: str) -> Advance:
    last = time.monotonic()

    def advance(done: int, total: int, note: str = "") -> None:
        nonlocal last
        if done == total or time.monotonic() - last >= PLAIN_INTERVAL:
            last = time.monotonic()
            of_total = f"/{total}" if total else ""
            print_text(f"{description} {done}{of_total} {note}".rstrip() + "\n", stderr=True)

    return advance

"""The one place that prints: tables on stdout, progress and errors on stderr, all of it cleaned and redacted."""

import io
import logging
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import click
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.text import Text

from rtd_plugin.printable import dump_json, make_printable, read_api_key

PLAIN_INTERVAL = 10.0  # seconds between lines where there is no terminal


class Advance(Protocol):
    """Tells how much is done, of how much, and a note such as the loss."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


class PrintableConsole(Console):
    """A console that cleans all text; escape sequences are those of its own colours and progress bars only."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Clean a string before it is measured, so that columns keep their width."""
        return super().render_str(make_printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Clean what reaches the console in another form than a string."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=make_printable(segment.text))


def out() -> Console:
    """Results, on stdout; brackets and colons in paths are no markup."""
    return PrintableConsole(highlight=False, markup=False, emoji=False)


def err() -> Console:
    """Everything else, on stderr."""
    return PrintableConsole(stderr=True, highlight=False, markup=False, emoji=False)


def print_text(text: str, stderr: bool = False) -> None:
    """Print a text as it is, neither wrapped nor coloured, cleaned."""
    click.echo(make_printable(text), nl=False, err=stderr)


def print_json(value: Any) -> None:
    """Print the one object that a command with `--json` writes to stdout."""
    click.echo(dump_json(value))


def print_failure(error: click.ClickException) -> None:
    """Print what click says of an error, with its hint at the usage."""
    shown = io.StringIO()
    error.show(shown)
    print_text(shown.getvalue(), stderr=True)


@contextmanager
def clean_messages() -> Iterator[None]:
    """Clean what Python's `logging` and `warnings` print for any library, and know the API key, within the block."""
    read_api_key()
    record, format_warning = logging.getLogRecordFactory(), warnings.formatwarning
    logging.setLogRecordFactory(_PrintableRecord)
    warnings.formatwarning = lambda *values, **options: make_printable(format_warning(*values, **options))
    try:
        yield
    finally:
        logging.setLogRecordFactory(record)
        warnings.formatwarning = format_warning


class _PrintableRecord(logging.LogRecord):
    def getMessage(self) -> str:
        return make_printable(super().getMessage())


@contextmanager
def progress(what: str, shown: bool = True) -> Iterator[Advance]:
    """A progress bar on a terminal, a plain line now and then elsewhere, or nothing."""
    if not shown:
        yield lambda done, total, note="": None
    elif sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=err()) as bar:
            task = bar.add_task(what, total=None, note="")
            yield lambda done, total, note="": bar.update(task, completed=done, total=total, note=note)
    else:
        last = time.monotonic()

        def line(done: int, total: int, note: str = "") -> None:
            nonlocal last
            if done == total or time.monotonic() - last >= PLAIN_INTERVAL:
                last = time.monotonic()
                print_text(f"{what} {done}/{total} {note}".rstrip() + "\n", stderr=True)

        yield line

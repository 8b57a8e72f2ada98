"""The command `rtd-plugin`. Each command is a module of this package, or a plugin's, imported when it is used."""

import importlib
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import click

from rtd_plugin.cli.console import clean_messages, print_failure, print_text
from rtd_plugin.cli.groups import ExtensibleGroup, list_plugin_commands
from rtd_plugin.errors import RTDError

COMMANDS = {
    "train": "Tune a text encoder.",
    "evaluate": "Measure retrieval before and after on a benchmark.",
    "search": "Find images in a folder or index by a reference image and a condition.",
    "index": "Build an index of images to search, or bring it up to date.",
    "serve": "Search in a browser, or over HTTP.",
    "patch": "Put a tuned text encoder under a host, without editing it.",
    "run": "Run a command with an active patch.",
    "doctor": "Check a host in this environment.",
    "export": "Write a tuned text encoder in another library's layout.",
    "push": "Upload a run to the Hugging Face Hub.",
    "triplets": "Build, check and describe text triplets.",
    "adapters": "List the adapters that are installed.",
    "recipes": "List the recipes that are installed, or show one.",
}


class CommandLine(ExtensibleGroup):
    """The group of `COMMANDS` and those of plugins, which turns errors into a sentence and an exit code."""

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in COMMANDS:
            return importlib.import_module(f"rtd_plugin.cli.{name}").command
        return super().get_command(ctx, name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        added = {name: command.get_short_help_str() for name, command in list_plugin_commands(ctx).items()}
        with formatter.section("Commands"):
            formatter.write_dl([*(COMMANDS | added).items()])

    def main(self, *args: Any, standalone_mode: bool = True, **options: Any) -> Any:
        """Run as click does, but print errors through `console`, the one module that prints."""
        run: Callable[..., Any] = super().main
        with clean_messages():
            if not standalone_mode:
                return run(*args, standalone_mode=False, **options)
            try:
                code = run(*args, standalone_mode=False, **options)  # 0 or None, or that of `Context.exit`
            except click.ClickException as error:
                print_failure(error)
                cause = error.__cause__
                code = cause.exit_code if isinstance(cause, RTDError) else error.exit_code
            except click.Abort:
                print_text("Aborted!\n", stderr=True)
                code = 1
            sys.exit(code)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise
        except Exception as error:
            if ctx.params["debug"]:
                print_text(traceback.format_exc(), stderr=True)
            raise _convert(error) from error


def _convert(error: Exception) -> click.ClickException:
    if isinstance(error, RTDError):
        return click.ClickException(str(error))
    if isinstance(error, OSError) and error.strerror and isinstance(error.filename, str | bytes):
        return click.ClickException(f"{os.fsdecode(error.filename)}: {error.strerror}")
    if isinstance(error, MemoryError):
        return click.ClickException("out of memory: use smaller batches or files, or a machine with more memory")
    # An unexpected error: the message can only say how to get the traceback.
    return click.ClickException(f"unexpected {type(error).__name__}: {error} (for a traceback: rtd-plugin --debug …)")


@click.group(cls=CommandLine)
@click.version_option(package_name="rtd-plugin")
@click.option("--debug", is_flag=True, help="Show a traceback on an error. Goes before the command.")
def main(debug: bool) -> None:
    """Tune CLIP's text encoder for zero-shot composed image retrieval.

    \b
    Example:
      rtd-plugin train --adapter lincir
    """

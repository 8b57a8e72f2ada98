"""`rtd-plugin adapters`."""

from collections.abc import Mapping
from typing import Any

import click
from rich.table import Table

from rtd_plugin.cli.console import out, show
from rtd_plugin.cli.options import JSON


@click.command()
@JSON
def command(as_json: bool) -> None:
    """List the adapters that are installed.

    \b
    Example:
      rtd-plugin adapters
    """
    from rtd_plugin.workflows.catalogue import describe_adapters

    show({"adapters": describe_adapters()}, as_json, _show)


def _show(result: Mapping[str, Any]) -> None:
    table = Table("adapter", "prompt")
    table.add_column("home", overflow="fold")
    for adapter in result["adapters"]:
        table.add_row(adapter["name"], adapter["prompt"], adapter["home"])
    out().print(table)

"""`rtd-plugin adapters`."""

from collections.abc import Mapping
from typing import Any

import click
from rich.table import Table

from rtd_plugin.cli.console import out, show
from rtd_plugin.contract import plugins


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(as_json: bool) -> None:
    """List the adapters that are installed.

    \b
    Example:
      rtd-plugin adapters
    """
    adapters = [
        {"name": adapter.name, "home": adapter.home, "prompt": adapter.prompt.template}
        for adapter in plugins.list_adapters().values()
    ]
    show({"adapters": adapters}, as_json, _show)


def _show(result: Mapping[str, Any]) -> None:
    table = Table("adapter", "prompt")
    table.add_column("home", overflow="fold")
    for adapter in result["adapters"]:
        table.add_row(adapter["name"], adapter["prompt"], adapter["home"])
    out().print(table)

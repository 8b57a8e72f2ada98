"""`rtd-plugin adapters`."""

import click
from rich.table import Table

from rtd_plugin.cli.console import out, print_json
from rtd_plugin.contract import plugins


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(as_json: bool) -> None:
    """List the adapters that are installed.

    \b
    Example:
      rtd-plugin adapters
    """
    found = plugins.list_adapters().values()
    if as_json:
        print_json({"adapters": [{"name": a.name, "home": a.home, "prompt": a.prompt.template} for a in found]})
        return
    table = Table("adapter", "prompt")
    table.add_column("home", overflow="fold")
    for adapter in found:
        table.add_row(adapter.name, adapter.prompt.template, adapter.home)
    out().print(table)

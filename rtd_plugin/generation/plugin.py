"""The plugin that adds `rtd-plugin triplets build`, `triplets paraphrase` and `triplets stats`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rtd_plugin.contract.markers import hookimpl

if TYPE_CHECKING:
    import click


@hookimpl
def rtd_commands() -> Iterable[click.Command]:
    """Return the three commands."""
    from rtd_plugin.generation import build_command, paraphrase_command, stats_command

    return [build_command.command, paraphrase_command.command, stats_command.command]

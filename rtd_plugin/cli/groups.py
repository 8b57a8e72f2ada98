"""Groups of commands that plugins extend through the hook `rtd_commands`."""

from __future__ import annotations

import logging

import click

from rtd_plugin.contract import plugins
from rtd_plugin.errors import RTDError

log = logging.getLogger(__name__)


class ExtensibleGroup(click.Group):
    """A command group with plugins' commands, which are loaded only when they may be needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*self.commands, *list_plugin_commands(ctx)})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return self.commands.get(name) or find_plugin_commands(ctx).get(name)


def find_plugin_commands(ctx: click.Context) -> dict[str, click.Command]:
    """Return the commands that plugins add to the group of a context, by their last word.

    Raises:
        RTDError: a plugin fails, or two register the same name.
    """
    group: list[str] = []
    while ctx.parent is not None:
        group, ctx = [str(ctx.info_name), *group], ctx.parent
    words = {tuple(name.split()): command for name, command in plugins.list_commands().items()}
    return {last: command for (*path, last), command in words.items() if path == group}


def list_plugin_commands(ctx: click.Context) -> dict[str, click.Command]:
    """Return what `find_plugin_commands` does; if a plugin is broken, log a warning and return none."""
    try:
        return find_plugin_commands(ctx)
    except RTDError as error:
        log.warning("%s", error)
        return {}

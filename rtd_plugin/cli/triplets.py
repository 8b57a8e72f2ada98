"""`rtd-plugin triplets`."""

import click

from rtd_plugin.cli import triplets_build, triplets_check, triplets_stats


@click.group()
def command() -> None:
    """Build text triplets from captions, check them, and describe them.

    \b
    Example:
      rtd-plugin triplets build rules captions.txt --output triplets.jsonl
    """


command.add_command(triplets_build.command, "build")
command.add_command(triplets_check.command, "check")
command.add_command(triplets_stats.command, "stats")

"""Prints the reference of the command line: `python docs/cli_reference.py > docs/cli.md`."""

import click

from rtd_plugin.cli.main import COMMANDS, main

WIDTH = 100


def reference() -> str:
    """Return the help of every command as Markdown."""
    context = click.Context(main, info_name="rtd-plugin", max_content_width=WIDTH, terminal_width=WIDTH)
    parts = [
        "# Command line\n",
        "Exit codes: 0, 1 (something failed), 2 (wrong usage).\n",
        block(main.get_help(context)),
    ]
    for name in COMMANDS:
        parts += sections(main.get_command(context, name), context, name)
    return "\n".join(parts)


def sections(command: click.Command, parent: click.Context, name: str) -> list[str]:
    """Return the sections of a command and of its subcommands."""
    inside = click.Context(command, parent, name, max_content_width=WIDTH, terminal_width=WIDTH)
    parts = [f"## {inside.command_path}\n", block(command.get_help(inside))]
    for own in command.list_commands(inside) if isinstance(command, click.Group) else ():
        parts += sections(command.get_command(inside, own), inside, own)
    return parts


def block(text: str) -> str:
    return f"```text\n{text}\n```\n"


if __name__ == "__main__":
    print(reference(), end="")

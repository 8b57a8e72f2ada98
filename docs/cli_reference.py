"""Prints the reference of the command line: `python docs/cli_reference.py > docs/cli.md`."""

import click

from rtd_plugin.cli.main import COMMANDS, main

WIDTH = 100


def reference() -> str:
    """Every command's own help as Markdown."""
    context = click.Context(main, info_name="rtd-plugin", max_content_width=WIDTH, terminal_width=WIDTH)
    parts = [
        "# Command line\n",
        "Exit codes: 0, 1 (something failed), 2 (wrong usage).\n",
        block(main.get_help(context)),
    ]
    for name in COMMANDS:
        command = main.get_command(context, name)
        inside = click.Context(command, context, name, max_content_width=WIDTH, terminal_width=WIDTH)
        parts += [f"## rtd-plugin {name}\n", block(command.get_help(inside))]
    return "\n".join(parts)


def block(text: str) -> str:
    return f"```text\n{text}\n```\n"


if __name__ == "__main__":
    print(reference(), end="")

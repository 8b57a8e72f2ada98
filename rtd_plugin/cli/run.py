"""`rtd-plugin run`."""

from pathlib import Path

import click

from rtd_plugin.cli.console import err
from rtd_plugin.cli.options import FILE


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("patch", metavar="HOST|PATCH", type=FILE)
@click.argument("command_line", metavar="-- COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
def command(patch: Path, command_line: tuple[str, ...]) -> None:
    """Run COMMAND in the current folder with a patch active in it and in its Python children.

    PATCH is a folder that `rtd-plugin patch` wrote; for a HOST, the patch folder beside it is used. The exit code
    is COMMAND's. A last line on stderr says how many composed queries used the tuned text encoder.

    \b
    Examples:
      rtd-plugin run searle-rtd-patch -- python src/validate.py --dataset cirr …
      rtd-plugin run . -- torchrun --nproc-per-node 2 validate.py …
    """
    from rtd_plugin.workflows.run import run_patched

    if command_line[0] == "--":
        command_line = command_line[1:]
    if not command_line:
        raise click.UsageError("no command after --")
    code, line = run_patched(patch, command_line)
    err().print(line, soft_wrap=True)
    click.get_current_context().exit(code)

"""Quotes words of the command lines that are printed for copying."""

import re
from pathlib import Path


def quote(text: str) -> str:
    r"""Return a word that bash, zsh, fish and POSIX shells read as `text`.

    `shlex.quote` is for POSIX shells alone: fish takes a backslash between single quotes as an escape, so that a name
    with `\'` would end the quotes there.
    """
    if re.fullmatch(r"[\w@%+:,./-]+", text, re.ASCII):
        return text
    return "'" + re.sub(r"[\\']", lambda special: rf"'\{special[0]}'", text) + "'"


def quote_path(path: str | Path) -> str:
    """Return a word for a path, which no command reads as an option."""
    return quote(f"./{path}" if str(path).startswith("-") else str(path))

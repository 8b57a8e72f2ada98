"""Errors that users see as a sentence instead of a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rtd_plugin.printable import make_message


class RTDError(Exception):
    """Something failed: the message says what, where and what to do. Exit code 1.

    As a string it is short and safe to print: messages quote file names, files and servers, and any code that
    catches the error, a host's included, may print it.
    """

    exit_code = 1

    def __str__(self) -> str:
        return make_message(super().__str__())


class UsageError(RTDError):
    """The command line, a recipe or an adapter's name is wrong. Exit code 2."""

    exit_code = 2


@contextmanager
def require_extra(extra: str, purpose: str) -> Iterator[None]:
    """Turn the failed import of an optional package into an RTDError with the command that installs it.

    Args:
        extra: the name of the extra in `pyproject.toml`.
        purpose: what needs the package, as the subject of a sentence.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise RTDError(f"{purpose} needs {error.name}: install it with `pip install 'rtd-plugin[{extra}]'`") from error


@contextmanager
def locate_errors(file: object) -> Iterator[None]:
    """Put a file's name before the message of an `RTDError` that does not begin with it."""
    try:
        yield
    except RTDError as error:
        if str(error).startswith(str(file)):
            raise
        raise type(error)(f"{file}: {error}") from error

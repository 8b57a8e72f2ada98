"""The one family of errors that users see as a sentence instead of a traceback."""


class RTDError(Exception):
    """Something failed: the message says what, where and what to do. Exit code 1."""

    exit_code = 1


class UsageError(RTDError):
    """The command line, a recipe or an adapter's name is wrong. Exit code 2."""

    exit_code = 2

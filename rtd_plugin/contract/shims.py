"""What an adapter knows of its host's faults: shims that repair them at run time, and versions known to be wrong.

Nothing outside the standard library is imported here, nor may the module of a shim's `repair` import more: a shim can
be at work in a host before anything else is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


class Report(Protocol):
    """What a repair calls when it was needed, so that the user is told.

    Args:
        failure: what went wrong, if the host hides an error: the process then ends with exit code 1.
    """

    def __call__(self, failure: str | None = None) -> None: ...


@dataclass(frozen=True)
class Shim:
    """A repair of one function that a host has or calls, in force with a patch and never written into the host.

    Attributes:
        name: how it is reported, and switched off.
        fault: what it repairs, as a sentence's end: "args.distributed is never set".
        modules: the names under which the function's file is imported.
        function: its qualified name there: `function` or `Class.method`.
        repair: called as `repair(original, report, *args, **kwargs)` instead of it; calls `report` if it was needed.
        file: the function's file, relative to the host's root; None for a function of a library.
    """

    name: str
    fault: str
    modules: tuple[str, ...]
    function: str
    repair: Callable[..., Any]
    file: str | None = None


@dataclass(frozen=True)
class KnownFault:
    """Versions of a package with which a host is known to fail or to be wrong.

    Attributes:
        package: as it is installed.
        versions: which of them, as a version specifier: ">=4.54,<5".
        effect: what happens with them.
        remedy: what to do about it.
    """

    package: str
    versions: str
    effect: str
    remedy: str

"""Faults of a host: shims that repair them at run time, and package versions known to be wrong.

Only the standard library is imported here, and the module of a shim's `repair` must not import more: a shim can run
before a host has imported anything else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol


class Report(Protocol):
    """Callback of a repair, called when the repair was needed, so that the user sees it.

    Args:
        failure: the error, if the host hides one: the process then ends with exit code 1.
    """

    def __call__(self, failure: str | None = None) -> None: ...


@dataclass(frozen=True)
class Shim:
    """A repair of one function that a host has or calls, active with a patch and never written into the host.

    Attributes:
        name: how it is reported and switched off.
        fault: what it repairs, as the end of a sentence: "args.distributed is never set".
        modules: the names under which the function's file is imported.
        function: its qualified name there: `function` or `Class.method`.
        repair: called as `repair(original, report, *args, **kwargs)` in its place; calls `report` if it was needed.
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
    """Versions of a package with which a host is known to fail or to give wrong results.

    Attributes:
        package: its name as installed.
        versions: a version specifier: ">=4.54,<5".
        effect: what happens with them.
        remedy: what to do.
    """

    package: str
    versions: str
    effect: str
    remedy: str

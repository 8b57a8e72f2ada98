"""Functions by name, as `module:function`: how a manifest refers to an adapter's functions."""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any

from rtd_plugin.errors import RTDError

if TYPE_CHECKING:
    from collections.abc import Callable

    Function = Callable[..., Any]


def format_reference(function: Function) -> str:
    """Return `module:function` for a function, by which a host's process imports it.

    Raises:
        RTDError: the function is not defined at the top level of an importable module.
    """
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "<lambda>")
    if module in (None, "__main__") or "<" in name:
        raise RTDError(
            f"{module}.{name}: hosts' processes cannot import it: define it at the top level of a module that is "
            "installed with the adapter"
        )
    return f"{module}:{name}"


@functools.lru_cache
def import_function(reference: str) -> Function:
    """Return the function that `module:function` refers to.

    Raises:
        RTDError: it cannot be imported.
    """
    module, _, name = reference.partition(":")
    try:
        holder: Any = importlib.import_module(module)
        return functools.reduce(getattr, name.split("."), holder)
    except Exception as error:  # the import of code that was written for another Python may raise anything
        raise RTDError(
            f"the patch needs {reference}, which cannot be imported here ({type(error).__name__}: {error})"
        ) from error

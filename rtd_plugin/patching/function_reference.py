"""Functions by name, as `module:function`: how a manifest refers to an adapter's functions."""

import functools
import importlib
from collections.abc import Callable
from typing import Any

from rtd_plugin.errors import RTDError

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


@functools.cache
def import_function(reference: str) -> Function:
    """Return the function that `module:function` refers to.

    Raises:
        RTDError: it cannot be imported.
    """
    module, _, name = reference.partition(":")
    try:
        holder: Any = importlib.import_module(module)
        return functools.reduce(getattr, name.split("."), holder)
    except (ImportError, AttributeError) as error:
        raise RTDError(f"the patch needs {reference}, which cannot be imported here ({error})") from error

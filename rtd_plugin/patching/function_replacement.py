"""Replaces functions of a host's modules wherever they are bound, and puts them back."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtd_plugin.patching.function_reference import Function

MARK = "rtd_plugin_replacement"


def find_modules(file: str) -> Iterator[ModuleType]:
    """Yield the imported modules of a file, whose path is resolved; a file may be imported under several names."""
    name = os.path.basename(file)
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and path.endswith(name) and os.path.realpath(path) == file:
            yield module


def is_replaced(function: Function) -> bool:
    """Whether a function is a replacement."""
    return hasattr(function, MARK)


def find_function(module: ModuleType, name: str) -> Function | None:
    """Return a module's function or a class's method, by its qualified name; None if the module lacks it."""
    holder, attribute = _find_holder(module, name)
    function = vars(holder).get(attribute) if holder is not None else None
    return function if inspect.isfunction(function) else None


def format_signature(function: Function) -> str:
    """Return a function's parameters without annotations, as text."""
    bare = inspect.Parameter.empty
    parameters = inspect.signature(function).parameters.values()
    return str(inspect.Signature([parameter.replace(annotation=bare) for parameter in parameters]))


def replace_function(module: ModuleType, name: str, call: Callable[..., Any]) -> Callable[[], None]:
    """Replace a function wherever it is bound, in modules that imported it too.

    The replacement is a plain function, not a proxy: it can be pickled by name, and in a class it is a method.

    Args:
        module: where the function is defined.
        name: its qualified name there.
        call: called with the original function and its arguments.

    Returns:
        A function that binds the original again, unless its module has a newer one.

    Raises:
        LookupError: the module has no such function.
    """
    original = find_function(module, name)
    if original is None:
        raise LookupError(f"{module.__name__} has no function {name}")

    @functools.wraps(original)
    def replacement(*args: Any, **kwargs: Any) -> Any:
        return call(original, *args, **kwargs)

    setattr(replacement, MARK, True)
    _rebind(module, name, original, replacement)
    return functools.partial(_rebind, module, name, replacement, original)


def _rebind(module: ModuleType, name: str, old: Function, new: Function) -> None:
    holder, attribute = _find_holder(module, name)
    if holder is not None and vars(holder).get(attribute) is old:
        setattr(holder, attribute, new)
    for other in list(sys.modules.values()):
        bound = getattr(other, "__dict__", {})
        for alias in [alias for alias, value in list(bound.items()) if value is old]:
            bound[alias] = new


def _find_holder(module: ModuleType, name: str) -> tuple[Any, str]:
    """Return the module or the class in it that holds a function, and the function's name there."""
    *classes, attribute = name.split(".")
    holder: Any = module
    for class_name in classes:
        holder = vars(holder).get(class_name)
        if not inspect.isclass(holder):
            return None, attribute
    return holder, attribute

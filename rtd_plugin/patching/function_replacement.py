"""Replaces functions of a host's modules wherever they are bound, and puts them back."""

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

Function = Callable[..., Any]
MARK = "rtd_plugin_replacement"


def modules_of(file: str) -> Iterator[ModuleType]:
    """The modules that a file was imported as, under whatever names."""
    name = os.path.basename(file)
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and path.endswith(name) and os.path.realpath(path) == file:
            yield module


def is_replaced(function: Function) -> bool:
    """Whether a function is already one that stands in another's stead."""
    return hasattr(function, MARK)


def find_function(module: ModuleType, name: str) -> Function | None:
    """A module's function or a class's method, by its qualified name; None if there is none."""
    holder, leaf = _holder(module, name)
    found = vars(holder).get(leaf) if holder is not None else None
    return found if inspect.isfunction(found) else None


def bare_signature(function: Function) -> str:
    """A function's parameters without annotations, as text."""
    bare = inspect.Parameter.empty
    parameters = inspect.signature(function).parameters.values()
    return str(inspect.Signature([parameter.replace(annotation=bare) for parameter in parameters]))


class Replacement:
    """A function of a module and what is called in its stead.

    What stands in its stead is a plain function, not a proxy: it can be pickled by name, and is a method where it
    stands in a class.

    Args:
        module: where the function is defined.
        name: its qualified name there.
        call: called with the function and its arguments.
    """

    def __init__(self, module: ModuleType, name: str, call: Callable[..., Any]):
        self.module, self.name = module, name
        self.original = original = find_function(module, name)

        @functools.wraps(original)
        def replacement(*args: Any, **kwargs: Any) -> Any:
            return call(original, *args, **kwargs)

        setattr(replacement, MARK, True)
        self.function = replacement

    def install(self) -> None:
        """Put the replacement in the function's place, also where it was imported to already."""
        self._rebind(self.original, self.function)

    def undo(self) -> None:
        """Put the function back, unless its module has another one by now."""
        self._rebind(self.function, self.original)

    def _rebind(self, old: Function, new: Function) -> None:
        holder, leaf = _holder(self.module, self.name)
        if holder is not None and vars(holder).get(leaf) is old:
            setattr(holder, leaf, new)
        for module in list(sys.modules.values()):
            names = getattr(module, "__dict__", {})
            for name in [name for name, value in list(names.items()) if value is old]:
                names[name] = new


def _holder(module: ModuleType, name: str) -> tuple[Any, str]:
    """What holds a function, the module or a class in it, and the function's name there."""
    *classes, leaf = name.split(".")
    holder: Any = module
    for part in classes:
        holder = vars(holder).get(part)
        if not inspect.isclass(holder):
            return None, leaf
    return holder, leaf

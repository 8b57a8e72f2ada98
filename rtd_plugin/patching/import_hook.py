"""Calls functions right after a module's code has run, before any import statement binds its names.

wrapt has such hooks too, but its import takes longer than the start of Python, and every Python under a patch pays it.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # every Python under a patch imports this module: typing takes as long as all the rest of it
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

    Callback = Callable[[ModuleType], None]


class ImportHook:
    """A finder of `sys.meta_path` that finds by the other finders, and calls back after the import."""

    def __init__(self) -> None:
        self._callbacks: dict[str, dict[str, Callback]] = {}  # by module name and key
        self._executing: list[ModuleType] = []

    def add(self, name: str, key: str, callback: Callback) -> None:
        """Call a function with the module of a name once that is imported; once, and one function for each key."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        self._callbacks.setdefault(name, {})[key] = callback

    def execute(self, module: ModuleType, loader: Any) -> None:
        """Run a module's code with its loader, then call the functions that wait for the module."""
        self._executing.append(module)
        try:
            loader.exec_module(module)
        finally:
            self._executing = [other for other in self._executing if other is not module]
        name = module.__name__ if module.__spec__ is None else module.__spec__.name
        for callback in self._callbacks.pop(name, {}).values():
            callback(module)

    def is_executing(self, module: ModuleType) -> bool:
        """Whether a module's code still runs, after which its functions will be called."""
        return any(other is module for other in self._executing)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return what the other finders find; with a loader that calls back, if a function waits for the module."""
        if name not in self._callbacks:
            return None
        for finder in [finder for finder in sys.meta_path if finder is not self]:
            spec = finder.find_spec(name, path, target) if hasattr(finder, "find_spec") else None
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):  # a namespace package may have no loader
                    spec.loader = _Loader(spec.loader, self)  # type: ignore[assignment]  # passes for a loader
                return spec
        return None


class _Loader:
    """Wraps a module's loader and calls the hook after `exec_module`."""

    def __init__(self, loader: Any, hook: ImportHook):
        self._loader = loader
        self._hook = hook

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # The module must look as if it had been imported without the hook.
        spec = module.__spec__
        module.__loader__ = self._loader
        if spec is not None:
            spec.loader = self._loader
        self._hook.execute(module, self._loader)


hook = ImportHook()
"""The one hook of this process."""

"""An active patch in this process: waits for the host's modules, and calls the patch in place of their functions."""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable
from fnmatch import fnmatch
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rtd_plugin.errors import RTDError
from rtd_plugin.patching.function_reference import import_function
from rtd_plugin.patching.function_replacement import (
    find_function,
    find_modules,
    format_signature,
    is_replaced,
    replace_function,
)
from rtd_plugin.patching.import_hook import hook
from rtd_plugin.patching.manifest import Manifest, PatchedPoint, PatchedShim
from rtd_plugin.patching.usage_log import COMPOSED, FAILED, HIDDEN, IMPORTED, KEPT, REPAIRED, get_usage_log

if TYPE_CHECKING:
    from rtd_plugin.patching.function_reference import Function
    from rtd_plugin.patching.host_encoder import HostEncoder

    PatchedFunction = PatchedPoint | PatchedShim

_active: dict[str, ActivePatch] = {}  # by the host's root


class ActivePatch:
    """A patch that is active in this process until `deactivate()`; see `rtd_plugin.patching.activation.activate`.

    As a context manager it is deactivated at the end of the block, unless it was active before.

    Attributes:
        manifest: the patch.
        composed_queries: number of composed queries that used the tuned text encoder in this process.
    """

    def __init__(self, manifest: Manifest):
        self.manifest = manifest
        self.composed_queries = 0
        self._functions: dict[tuple[str | None, str], list[PatchedFunction]] = {}  # by file and qualified name
        for patched in _list_functions(manifest):
            self._functions.setdefault((patched.file, _qualified_name(patched)), []).append(patched)
        self._restore: list[Callable[[], None]] = []
        self._activations = 0
        self._encoder: HostEncoder | None = None
        self._lock = threading.Lock()
        self._is_training: dict[str, bool] = {}  # by the names of files that call

    def start(self) -> None:
        """Replace functions of modules that are imported already, and wait for the others. Idempotent.

        Raises:
            RTDError: a function has changed since it was patched; nothing is replaced then.
        """
        host = self.manifest.host
        self._activations += 1
        _active[host] = self
        get_usage_log().expected = host
        try:
            for (file, name), functions in self._functions.items():
                if file is None:
                    modules = [sys.modules[module] for module in functions[0].modules if module in sys.modules]
                else:
                    modules = list(find_modules(os.path.join(host, file)))
                for module in modules:
                    if not hook.is_executing(module):
                        self._replace(module, file, name)
        except RTDError:
            self.deactivate()
            raise
        for patched in _list_functions(self.manifest):
            for module_name in patched.modules:
                imported = sys.modules.get(module_name)
                if imported is None or hook.is_executing(imported):
                    hook.add(module_name, host, functools.partial(_replace_imported, host))

    def deactivate(self) -> None:
        """Restore the functions of the host. Idempotent."""
        self._activations = 0
        if _active.get(self.manifest.host) is self:
            del _active[self.manifest.host]
            while self._restore:
                self._restore.pop()()
            get_usage_log().expected = next(iter(_active), None)

    def __enter__(self) -> ActivePatch:
        return self

    def __exit__(self, *_: object) -> None:
        self._activations -= 1
        if self._activations < 1:
            self.deactivate()

    def replace_in(self, module: ModuleType) -> None:
        """Replace the patched functions of a module that has just been imported; no other module names them yet."""
        path = os.path.realpath(getattr(module, "__file__", None) or "")
        for (file, name), functions in self._functions.items():
            if file is None:
                matches = any(module.__name__ in patched.modules for patched in functions)
            else:
                matches = path == os.path.join(self.manifest.host, file)
            if matches:
                self._replace(module, file, name)

    def call(
        self, key: tuple[str | None, str], original: Function, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Call a replaced function, given by file and qualified name."""
        function = original
        for patched in self._functions.get(key, ()):
            run: Function = self._compose if isinstance(patched, PatchedPoint) else self._repair
            function = functools.wraps(function)(functools.partial(run, patched, function))
        return function(*args, **kwargs)

    def _replace(self, module: ModuleType, file: str | None, name: str) -> None:
        function = find_function(module, name)
        point = self._functions[file, name][0]
        if isinstance(point, PatchedPoint):
            self._check_signature(point, function)
            get_usage_log().add(IMPORTED)
        if function is not None and not is_replaced(function):
            call = functools.partial(_call, self.manifest.host, (file, name))
            self._restore.append(replace_function(module, name, call))

    def _check_signature(self, point: PatchedPoint, function: Function | None) -> None:
        current = "no such function" if function is None else f"{point.name}{format_signature(function)}"
        if current != f"{point.name}{point.signature}":
            error = RTDError(
                f"{self.manifest.host}/{point.file}: has {current}, but {point.name}{point.signature} was patched: "
                "the host has changed, patch it again"
            )
            get_usage_log().add(FAILED, note=str(error))
            raise error

    def _compose(self, point: PatchedPoint, original: Function, *args: Any, **kwargs: Any) -> Any:
        """Compose with the tuned text encoder; for training code, call the host's function."""
        log = get_usage_log()
        if self._is_called_by_training():
            log.add(KEPT)
            return original(*args, **kwargs)
        try:
            with self._lock:
                if self._encoder is None:
                    # Not earlier: the host's `datasets` or `utils` must be imported before torch looks for them.
                    from rtd_plugin.patching.host_encoder import HostEncoder

                    self._encoder = HostEncoder(self.manifest)
            composition = import_function(point.read)(*args, **kwargs)
            result = self._encoder.compose(composition)
        except Exception as error:
            log.add(FAILED, note=str(error) if isinstance(error, RTDError) else f"{type(error).__name__}: {error}")
            raise
        self.composed_queries += len(composition)
        log.add(COMPOSED, len(composition))
        return result

    def _repair(self, shim: PatchedShim, original: Function, *args: Any, **kwargs: Any) -> Any:
        def report(failure: str | None = None) -> None:
            if failure is not None:
                get_usage_log().add(HIDDEN, note=failure)
            get_usage_log().add(REPAIRED, note=shim.name)

        return import_function(shim.repair)(original, report, *args, **kwargs)

    def _is_called_by_training(self) -> bool:
        """Whether a function of the host's training code is among the callers."""
        frame = sys._getframe(1) if self.manifest.training_files else None
        while frame is not None:
            file = frame.f_globals.get("__file__") or ""
            if file not in self._is_training:
                self._is_training[file] = self._is_training_file(file)
            if self._is_training[file]:
                return True
            frame = frame.f_back
        return False

    def _is_training_file(self, file: str) -> bool:
        relative = os.path.relpath(os.path.realpath(file), self.manifest.host).replace(os.sep, "/")
        return any(fnmatch(relative, pattern) for pattern in self.manifest.training_files)


def find_active_patch(host: str) -> ActivePatch | None:
    """Return the patch of a host, given by its root, that is active in this process."""
    return _active.get(host)


def _call(host: str, key: tuple[str | None, str], original: Function, *args: Any, **kwargs: Any) -> Any:
    """Call a function that was replaced: by the patch if one is active, else directly."""
    patch = _active.get(host)
    return original(*args, **kwargs) if patch is None else patch.call(key, original, args, kwargs)


def _replace_imported(host: str, module: ModuleType) -> None:
    if host in _active:
        _active[host].replace_in(module)


def _list_functions(manifest: Manifest) -> list[PatchedFunction]:
    return [*manifest.points, *manifest.shims]


def _qualified_name(patched: PatchedFunction) -> str:
    return patched.name if isinstance(patched, PatchedPoint) else patched.function

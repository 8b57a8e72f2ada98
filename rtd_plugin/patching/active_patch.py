"""What a patch in force does in this process: waits for the host's modules, and composes in its functions' stead."""

import functools
import importlib
import os
import sys
import threading
from fnmatch import fnmatch
from types import ModuleType
from typing import TYPE_CHECKING, Any

import wrapt

from rtd_plugin.errors import RTDError
from rtd_plugin.patching import usage_log as tally
from rtd_plugin.patching.function_replacement import (
    Function,
    Replacement,
    bare_signature,
    find_function,
    is_replaced,
    modules_of,
)
from rtd_plugin.patching.manifest import Manifest, PatchedPoint, PatchedShim

if TYPE_CHECKING:
    from rtd_plugin.patching.host_encoder import TunedEncoder

Part = PatchedPoint | PatchedShim

_in_force: dict[str, "PatchInForce"] = {}  # by the host's root
_awaited: set[tuple[str, str]] = set()  # hosts, and names of modules that are theirs once they are imported


class PatchInForce:
    """A patch in force in this process; see `rtd_plugin.patching.activation.activate`.

    Attributes:
        manifest: the patch.
        composed_queries: how many used the tuned text encoder in this process.
    """

    def __init__(self, manifest: Manifest):
        self.manifest = manifest
        self.composed_queries = 0
        self._parts: dict[tuple[str | None, str], list[Part]] = {}
        for part in (*manifest.points, *manifest.shims):
            self._parts.setdefault((part.file, _function_name(part)), []).append(part)
        self._replacements: list[Replacement] = []
        self._encoder: TunedEncoder | None = None
        self._lock = threading.Lock()
        self._is_training: dict[str, bool] = {}  # by the names of files that call

    def end(self) -> None:
        """Give the host its own functions back; once is as good as twice."""
        if _in_force.get(self.manifest.host) is not self:
            return
        del _in_force[self.manifest.host]
        for replacement in reversed(self._replacements):
            replacement.undo()
        self._replacements.clear()
        tally.of_process().expected = next(iter(_in_force), None)

    def begin(self) -> None:
        """Replace what is imported already, and wait for the rest."""
        _in_force[self.manifest.host] = self
        tally.of_process().expected = self.manifest.host
        try:
            for (file, name), parts in self._parts.items():
                imported = [sys.modules[module] for module in parts[0].modules if module in sys.modules]
                for module in imported if file is None else modules_of(os.path.join(self.manifest.host, file)):
                    self._replace(module, file, name)
        except RTDError:
            self.end()
            raise
        for part in (*self.manifest.points, *self.manifest.shims):
            for module in part.modules:
                if module not in sys.modules:
                    _await(self.manifest.host, module)

    def _imported(self, module: ModuleType) -> None:
        """A module has just been executed, and nothing in it is bound elsewhere yet."""
        path = os.path.realpath(getattr(module, "__file__", None) or "")
        for (file, name), parts in self._parts.items():
            if file is None:
                theirs = any(module.__name__ in part.modules for part in parts)
            else:
                theirs = path == os.path.join(self.manifest.host, file)
            if theirs:
                self._replace(module, file, name)

    def _replace(self, module: ModuleType, file: str | None, name: str) -> None:
        function = find_function(module, name)
        point = self._parts[file, name][0]
        if isinstance(point, PatchedPoint):
            self._check(point, function)
            tally.of_process().add(tally.IMPORTED)
        if function is not None and not is_replaced(function):
            call = functools.partial(_call, self.manifest.host, (file, name))
            replacement = Replacement(module, name, call)
            replacement.install()
            self._replacements.append(replacement)

    def _check(self, point: PatchedPoint, function: Function | None) -> None:
        found = "no such function" if function is None else f"{point.name}{bare_signature(function)}"
        if found != f"{point.name}{point.signature}":
            error = RTDError(
                f"{self.manifest.host}/{point.file}: has {found}, but {point.name}{point.signature} was patched: "
                "the host has changed, patch it again"
            )
            tally.of_process().add(tally.FAILED, note=str(error))
            raise error

    def _compose(self, point: PatchedPoint, original: Function, *args: Any, **kwargs: Any) -> Any:
        """What a composition point is to return: composed with the tuned text encoder, but not for training code."""
        if self._called_by_training():
            tally.of_process().add(tally.KEPT)
            return original(*args, **kwargs)
        try:
            with self._lock:
                if self._encoder is None:
                    # Only now: whatever a host puts first on sys.path has been imported by itself.
                    from rtd_plugin.patching.host_encoder import TunedEncoder

                    self._encoder = TunedEncoder(self.manifest)
            composition = resolve(point.read)(*args, **kwargs)
            result = self._encoder.compose(composition)
        except Exception as error:
            note = str(error) if isinstance(error, RTDError) else f"{type(error).__name__}: {error}"
            tally.of_process().add(tally.FAILED, note=note)
            raise
        self.composed_queries += len(composition.tokens)
        tally.of_process().add(tally.COMPOSED, len(composition.tokens))
        return result

    def _repair(self, shim: PatchedShim, original: Function, *args: Any, **kwargs: Any) -> Any:
        def report(failure: str | None = None) -> None:
            if failure is not None:
                tally.of_process().add(tally.HIDDEN, note=failure)
            tally.of_process().add(tally.REPAIRED, note=shim.name)

        return resolve(shim.repair)(original, report, *args, **kwargs)

    def _called_by_training(self) -> bool:
        """Whether a function of the host's training code is among those that led here."""
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
        inside = os.path.relpath(os.path.realpath(file), self.manifest.host).replace(os.sep, "/")
        return any(fnmatch(inside, pattern) for pattern in self.manifest.training_files)


def patch_of(host: str) -> PatchInForce | None:
    """The patch of a host that is in force in this process."""
    return _in_force.get(host)


def _call(host: str, key: tuple[str | None, str], original: Function, *args: Any, **kwargs: Any) -> Any:
    """Call a replaced function as the patch that is in force has it; as the host has it, if none is."""
    activation = _in_force.get(host)
    function = original
    for part in activation._parts.get(key, ()) if activation is not None else ():
        run = activation._compose if isinstance(part, PatchedPoint) else activation._repair
        function = functools.wraps(function)(functools.partial(run, part, function))
    return function(*args, **kwargs)


def _await(host: str, name: str) -> None:
    if (host, name) in _awaited:
        return
    _awaited.add((host, name))

    def imported(module: ModuleType) -> None:
        _awaited.discard((host, name))
        if host in _in_force:
            _in_force[host]._imported(module)

    wrapt.register_post_import_hook(imported, name)


def _function_name(part: Part) -> str:
    return part.name if isinstance(part, PatchedPoint) else part.function


@functools.cache
def resolve(reference: str) -> Function:
    """A function by `module:function`.

    Raises:
        RTDError: it cannot be imported.
    """
    module, _, name = reference.partition(":")
    try:
        return functools.reduce(getattr, name.split("."), importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise RTDError(f"the patch needs {reference}, which cannot be imported here ({error})") from error

"""Recognises a host by its composition points, from its source alone: nothing of the host is imported or run."""

import ast
import inspect
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtd_plugin.contract.adapter import Adapter
from rtd_plugin.contract.composition import CompositionPoint
from rtd_plugin.contract.shims import Shim
from rtd_plugin.errors import RTDError, UsageError
from rtd_plugin.regular_files import open_regular

LARGEST_SOURCE = 2**22  # bytes of a source file that is read


@dataclass(frozen=True)
class HostPoint:
    """A composition point of a host: the adapter's description, and the line of the function."""

    point: CompositionPoint
    line: int


@dataclass(frozen=True)
class Host:
    """A recognised host.

    Attributes:
        root: of the checkout, resolved.
        adapter: of the host's method.
        points: its composition points.
        shims: the adapter's shims of functions that the host defines, or calls in a library.
        commit: of git's HEAD; None outside a git repository.
    """

    root: Path
    adapter: Adapter
    points: tuple[HostPoint, ...]
    shims: tuple[Shim, ...]
    commit: str | None


@dataclass(frozen=True)
class _Function:
    line: int
    signature: str


def find_host(folder: Path, adapters: Iterable[Adapter]) -> Host:
    """Recognise the host that a folder belongs to.

    Args:
        folder: the checkout's root, or any folder in it.
        adapters: of the methods to look for.

    Raises:
        RTDError: the folder is not a host of any of them, or one of its composition points has another signature.
        UsageError: it may be a host of several.
    """
    if not folder.is_dir():
        raise RTDError(f"{folder}: {'a file, not the folder of a host' if folder.exists() else 'no such folder'}")
    adapters = [adapter for adapter in adapters if adapter.composition_points]
    best: dict[str, tuple[Path, Adapter, list[tuple[CompositionPoint, _Function]]]] = {}
    for root in _list_roots(folder.resolve()):
        for adapter in adapters:
            points = _find_points(root, adapter)
            if len(points) > len(best[adapter.name][2] if adapter.name in best else ()):
                best[adapter.name] = root, adapter, points
    if not best:
        raise RTDError(f"{folder}: not a host of {_format_names(adapters)}: {_describe_search(folder, adapters)}")
    if len(best) > 1:
        methods = "; ".join(
            f"{name} ({', '.join(point.file for point, _ in points)})" for name, (_, _, points) in best.items()
        )
        raise UsageError(f"{folder}: looks like a host of several methods: {methods}. Pass --adapter NAME")
    ((root, adapter, points),) = best.values()
    for point, function in points:
        if function.signature != str(point.signature):
            raise RTDError(
                f"{root / point.file}, line {function.line}: {point.name} has another signature: looked for "
                f"{point.name}{point.signature}, found {point.name}{function.signature}. A fork that differs there "
                "needs its own adapter"
            )
    shims = tuple(
        shim for shim in adapter.shims if shim.file is None or shim.function in _read_functions(root / shim.file)
    )
    host_points = tuple(HostPoint(point, function.line) for point, function in points)
    return Host(root, adapter, host_points, shims, _read_commit(root))


def _format_names(adapters: Iterable[Adapter]) -> str:
    return ", ".join(adapter.name for adapter in adapters) or "any installed adapter"


def _list_roots(folder: Path) -> Iterator[Path]:
    """Yield the folders that may be the checkout's root, nearest first, up to git's root; never the root folder."""
    for root in (folder, *folder.parents[:-1]):
        yield root
        if (root / ".git").exists():
            return


def _find_points(root: Path, adapter: Adapter) -> list[tuple[CompositionPoint, _Function]]:
    pairs = ((point, _read_functions(root / point.file).get(point.name)) for point in adapter.composition_points)
    return [(point, function) for point, function in pairs if function is not None]


def _describe_search(folder: Path, adapters: Iterable[Adapter]) -> str:
    looked_for, files = [], []
    for point in {(p.file, p.name): p for adapter in adapters for p in adapter.composition_points}.values():
        looked_for.append(f"{point.name} in {point.file}")
        for root in _list_roots(folder.resolve()):
            if (root / point.file).is_file():
                functions = ", ".join(_read_functions(root / point.file)) or "no function"
                files.append(f"{root / point.file} has {functions}")
                break
    return f"looked for {'; '.join(looked_for)}; found {'; '.join(dict.fromkeys(files)) or 'none of these files'}"


def _read_functions(file: Path) -> Mapping[str, _Function]:
    """Return all functions and methods that a source file defines, by qualified name; none if there is no such file.

    Raises:
        RTDError: it is not Python source.
    """
    if not file.is_file():
        return {}
    definitions = _list_definitions(parse_source(file), "")
    return {name: _Function(node.lineno, _format_signature(node)) for name, node in definitions}


def parse_source(file: Path) -> ast.Module:
    """Parse a source file.

    Raises:
        RTDError: it is not a regular file of at most `LARGEST_SOURCE` bytes with Python source.
    """
    if not file.is_file():
        raise RTDError(f"{file}: not a regular file")
    try:
        with open_regular(file) as source:
            text = source.read(LARGEST_SOURCE + 1)
        if len(text) > LARGEST_SOURCE:
            raise RTDError(f"{file}: larger than {LARGEST_SOURCE >> 20} MiB, not read as Python source")
        return ast.parse(text)
    except (SyntaxError, ValueError, OSError, RecursionError, MemoryError) as error:
        raise RTDError(f"{file}: not readable as Python source ({error})") from error


def _list_definitions(scope: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield functions of a module and its classes, conditional ones too; not those inside functions."""
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, ast.FunctionDef):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from _list_definitions(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            yield from _list_definitions(node, prefix)


class _Source:
    """A default's source, unevaluated."""

    def __init__(self, node: ast.expr):
        self.text = ast.unparse(node)

    def __repr__(self) -> str:
        return self.text


def _format_signature(function: ast.FunctionDef) -> str:
    """Return a function's parameters without annotations, in the form of `str(inspect.signature(…))`."""
    arguments, parameter = function.args, inspect.Parameter
    positional: list[tuple[ast.arg, Any]] = [(a, parameter.POSITIONAL_ONLY) for a in arguments.posonlyargs]
    positional += [(a, parameter.POSITIONAL_OR_KEYWORD) for a in arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults
    rows: list[tuple[str, Any, ast.expr | None]] = [
        (a.arg, form, default) for (a, form), default in zip(positional, defaults, strict=True)
    ]
    if arguments.vararg:
        rows.append((arguments.vararg.arg, parameter.VAR_POSITIONAL, None))
    keywords = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    rows += [(a.arg, parameter.KEYWORD_ONLY, default) for a, default in keywords]
    if arguments.kwarg:
        rows.append((arguments.kwarg.arg, parameter.VAR_KEYWORD, None))
    parameters = [
        parameter(name, form, default=parameter.empty if default is None else _Source(default))
        for name, form, default in rows
    ]
    return str(inspect.Signature(parameters))


def _read_commit(root: Path) -> str | None:
    try:
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None

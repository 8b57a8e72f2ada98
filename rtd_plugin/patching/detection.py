"""Recognises a host by its composition points, from its source alone: nothing of it is imported or run."""

import ast
import inspect
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rtd_plugin.contract.adapter import Adapter
from rtd_plugin.contract.composition import CompositionPoint
from rtd_plugin.contract.shims import Shim
from rtd_plugin.errors import RTDError, UsageError


@dataclass(frozen=True)
class FoundPoint:
    """A composition point of a host: what its adapter says, and the line it is at."""

    point: CompositionPoint
    line: int


@dataclass(frozen=True)
class Host:
    """A recognised host.

    Attributes:
        root: of its checkout, resolved.
        adapter: its method's.
        points: the composition points that it has.
        shims: those of the adapter whose functions it has, or calls in a library.
        commit: that git names, if it does.
    """

    root: Path
    adapter: Adapter
    points: tuple[FoundPoint, ...]
    shims: tuple[Shim, ...]
    commit: str | None


@dataclass(frozen=True)
class _Function:
    line: int
    signature: str


def find_host(folder: Path, adapters: Iterable[Adapter]) -> Host:
    """The host that a folder belongs to, be it the checkout's root or any folder in it.

    Args:
        folder: of the host.
        adapters: of all methods that it may be one of.

    Raises:
        RTDError: it is of none of them, of several, or one of its composition points has another signature.
    """
    if not folder.is_dir():
        raise RTDError(f"{folder}: {'a file, not the folder of a host' if folder.exists() else 'no such folder'}")
    adapters = [adapter for adapter in adapters if adapter.composition_points]
    best: dict[str, tuple[Path, Adapter, list[tuple[CompositionPoint, _Function]]]] = {}
    for root in _roots(folder.resolve()):
        for adapter in adapters:
            found = _points_in(root, adapter)
            if len(found) > len(best[adapter.name][2] if adapter.name in best else ()):
                best[adapter.name] = root, adapter, found
    if not best:
        raise RTDError(f"{folder}: no host of {_names(adapters)}: {_what_was_looked_for(folder, adapters)}")
    if len(best) > 1:
        where = "; ".join(f"{name} ({', '.join(p.file for p, _ in found)})" for name, (_, _, found) in best.items())
        raise UsageError(f"{folder}: looks like a host of several methods: {where}. Pass --adapter NAME")
    ((root, adapter, found),) = best.values()
    for point, function in found:
        if function.signature != str(point.signature):
            raise RTDError(
                f"{root / point.file}, line {function.line}: {point.name} has another signature: looked for "
                f"{point.name}{point.signature}, found {point.name}{function.signature}. A fork that differs there "
                "needs an adapter of its own"
            )
    points = tuple(FoundPoint(point, function.line) for point, function in found)
    shims = tuple(shim for shim in adapter.shims if shim.file is None or shim.function in _functions(root / shim.file))
    return Host(root, adapter, points, shims, _commit(root))


def _names(adapters: Iterable[Adapter]) -> str:
    return ", ".join(adapter.name for adapter in adapters) or "any installed adapter"


def _roots(folder: Path) -> Iterator[Path]:
    """Where the checkout's root may be, nearest first: git's says where to stop, and the file system's is none."""
    for root in (folder, *folder.parents[:-1]):
        yield root
        if (root / ".git").exists():
            return


def _points_in(root: Path, adapter: Adapter) -> list[tuple[CompositionPoint, _Function]]:
    pairs = ((point, _functions(root / point.file).get(point.name)) for point in adapter.composition_points)
    return [(point, function) for point, function in pairs if function is not None]


def _what_was_looked_for(folder: Path, adapters: Iterable[Adapter]) -> str:
    looked_for, found = [], []
    for point in {(p.file, p.name): p for adapter in adapters for p in adapter.composition_points}.values():
        looked_for.append(f"{point.name} in {point.file}")
        for root in _roots(folder.resolve()):
            if (root / point.file).is_file():
                functions = ", ".join(_functions(root / point.file)) or "no function"
                found.append(f"{root / point.file} has {functions}")
                break
    return f"looked for {'; '.join(looked_for)}; found {'; '.join(dict.fromkeys(found)) or 'none of these files'}"


def _functions(file: Path) -> Mapping[str, _Function]:
    """All functions and methods that a source file defines, by qualified name; none if there is no such file.

    Raises:
        RTDError: it is no Python source.
    """
    if not file.is_file():
        return {}
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError) as error:
        raise RTDError(f"{file}: not readable as Python source ({error})") from error
    return {name: _Function(node.lineno, _signature(node)) for name, node in _definitions(tree, "")}


def _definitions(scope: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions of a module, its classes, and what is under their conditions; not those inside functions."""
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, ast.FunctionDef):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from _definitions(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            yield from _definitions(node, prefix)


class _Source:
    """A default's source, which is not evaluated."""

    def __init__(self, node: ast.expr):
        self.text = ast.unparse(node)

    def __repr__(self) -> str:
        return self.text


def _signature(function: ast.FunctionDef) -> str:
    """A function's parameters without annotations, as `str(inspect.signature(…))` has them."""
    arguments, kinds = function.args, inspect.Parameter
    positional = [(a, kinds.POSITIONAL_ONLY) for a in arguments.posonlyargs]
    positional += [(a, kinds.POSITIONAL_OR_KEYWORD) for a in arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults
    found = [(a.arg, kind, default) for (a, kind), default in zip(positional, defaults, strict=True)]
    if arguments.vararg:
        found.append((arguments.vararg.arg, kinds.VAR_POSITIONAL, None))
    found += [(a.arg, kinds.KEYWORD_ONLY, d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    if arguments.kwarg:
        found.append((arguments.kwarg.arg, kinds.VAR_KEYWORD, None))
    parameters = [
        kinds(name, kind, default=kinds.empty if default is None else _Source(default)) for name, kind, default in found
    ]
    return str(inspect.Signature(parameters))


def _commit(root: Path) -> str | None:
    try:
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None

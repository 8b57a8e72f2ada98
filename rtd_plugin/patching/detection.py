"""Recognises a host by its composition points, from its source alone: nothing of the host is imported or run."""

import ast
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rtd_plugin.contract.adapter import Adapter
from rtd_plugin.contract.composition import CompositionPoint
from rtd_plugin.contract.shims import Shim
from rtd_plugin.errors import RTDError, UsageError
from rtd_plugin.regular_files import open_regular, resolve_links

LARGEST_SOURCE = 2**22  # bytes of a source file that is read
DEPTH = 2  # levels of folders below the given one in which a host is looked for


@dataclass(frozen=True)
class HostPoint:
    """A composition point of a host: the adapter's description, and the function's line and signature."""

    point: CompositionPoint
    line: int
    signature: str


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


def find_host(folder: Path, adapters: Iterable[Adapter]) -> Host:
    """Recognise the host that a folder belongs to.

    Args:
        folder: the checkout's root, or any folder in it; or a folder with the host below it.
        adapters: of the methods to look for. Of several that fit, those with the most `markers` are meant.

    Raises:
        RTDError: the folder is not a host of any of them, or one of its composition points has another signature.
        UsageError: it may be a host of several, or has several below it.
    """
    if not folder.is_dir():
        raise RTDError(f"{folder}: {'a file, not the folder of a host' if folder.exists() else 'no such folder'}")
    adapters = [adapter for adapter in adapters if adapter.composition_points]
    candidates = _find_candidates(_list_roots(resolve_links(folder)), adapters)
    if len(candidates) > 1:
        methods = "; ".join(f"{h.adapter.name} ({', '.join(p.point.file for p in h.points)})" for h in candidates)
        raise UsageError(f"{folder}: looks like a host of several methods: {methods}. Pass --adapter NAME")
    if not candidates:
        below = [host for root in _list_folders(resolve_links(folder)) for host in _find_candidates([root], adapters)]
        candidates = _select_specific(below)
    if len(candidates) > 1:
        hosts = ", ".join(f"{host.root} ({host.adapter.name})" for host in candidates)
        raise UsageError(f"{folder}: has several hosts in it, {hosts}: pass the folder of one, or --adapter NAME")
    if not candidates:
        names = ", ".join(adapter.name for adapter in adapters) or "any installed adapter"
        raise RTDError(f"{folder}: not a host of {names}: {_describe_search(folder, adapters)}")
    (host,) = candidates
    for point, line, signature in ((p.point, p.line, p.signature) for p in host.points):
        if signature != str(point.signature):
            raise RTDError(
                f"{host.root / point.file}, line {line}: {point.name} has another signature: looked for "
                f"{point.name}{point.signature}, found {point.name}{signature}. A fork that differs there "
                "needs its own adapter"
            )
    return replace(host, commit=_read_commit(host.root))


def _find_candidates(roots: Iterable[Path], adapters: Sequence[Adapter]) -> list[Host]:
    """Return what a checkout may be: for each adapter that fits, the root with most of its composition points."""
    hosts: dict[str, Host] = {}
    for root in roots:
        for adapter in adapters:
            pairs = [
                (point, _read_functions(root / point.file).get(point.name)) for point in adapter.composition_points
            ]
            points = [
                HostPoint(point, node.lineno, _format_signature(node, root / point.file))
                for point, node in pairs
                if node is not None
            ]
            best = hosts[adapter.name].points if adapter.name in hosts else ()
            # Markers tell relatives apart: an adapter that is named needs none.
            if len(points) > len(best) and (len(adapters) == 1 or _has_markers(root, adapter)):
                shims = [s for s in adapter.shims if s.file is None or s.function in _read_functions(root / s.file)]
                hosts[adapter.name] = Host(root, adapter, tuple(points), tuple(shims), None)
    return _select_specific(list(hosts.values()))


def _select_specific(hosts: Sequence[Host]) -> list[Host]:
    most = max((len(host.adapter.markers) for host in hosts), default=0)
    return [host for host in hosts if len(host.adapter.markers) == most]


def _has_markers(root: Path, adapter: Adapter) -> bool:
    markers = adapter.markers.items()
    return all((root / file).is_file() and text.encode() in _read_source(root / file) for file, text in markers)


def _list_roots(folder: Path) -> Iterator[Path]:
    """Yield the folders that may be the checkout's root, nearest first, up to git's root; never the root folder."""
    for root in (folder, *folder.parents[:-1]):
        yield root
        if (root / ".git").exists():
            return


def _list_folders(folder: Path) -> Iterator[Path]:
    """Yield the folders at most `DEPTH` levels below a folder; not hidden ones."""
    for path, names, _ in os.walk(folder):
        names[:] = sorted(name for name in names if not name.startswith("."))
        yield from (Path(path, name) for name in names)
        if len(Path(path).relative_to(folder).parts) + 1 == DEPTH:
            names.clear()


def _describe_search(folder: Path, adapters: Iterable[Adapter]) -> str:
    looked_for, files = [], []
    for point in {(p.file, p.name): p for adapter in adapters for p in adapter.composition_points}.values():
        looked_for.append(f"{point.name} in {point.file}")
        for root in _list_roots(resolve_links(folder)):
            if (root / point.file).is_file():
                functions = ", ".join(_read_functions(root / point.file)) or "no function"
                files.append(f"{root / point.file} has {functions}")
                break
    return f"looked for {'; '.join(looked_for)}; found {'; '.join(dict.fromkeys(files)) or 'none of these files'}"


def _read_functions(file: Path) -> Mapping[str, ast.FunctionDef]:
    """Return all functions and methods that a source file defines, by qualified name; none if there is no such file.

    Raises:
        RTDError: it is not Python source.
    """
    return dict(_list_definitions(parse_source(file), "")) if file.is_file() else {}


def parse_source(file: Path) -> ast.Module:
    """Parse a source file.

    Raises:
        RTDError: it is not a regular file of at most `LARGEST_SOURCE` bytes with Python source.
    """
    try:
        return ast.parse(_read_source(file))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise RTDError(f"{file}: not readable as Python source ({error})") from error


def _read_source(file: Path) -> bytes:
    try:
        with open_regular(file) as source:
            text = source.read(LARGEST_SOURCE + 1)
    except OSError as error:
        raise RTDError(f"{file}: cannot be read ({error.strerror})") from error
    if len(text) > LARGEST_SOURCE:
        raise RTDError(f"{file}: larger than {LARGEST_SOURCE >> 20} MiB, not read as Python source")
    return text


def _list_definitions(scope: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield functions of a module and its classes, conditional ones too; not those inside functions."""
    scopes = [(scope, prefix)]
    while scopes:  # not recursive: `elif` after `elif` is nested without an end
        scope, prefix = scopes.pop()
        inner: list[tuple[ast.AST, str]] = []
        for node in ast.iter_child_nodes(scope):
            if isinstance(node, ast.FunctionDef):
                yield prefix + node.name, node
            elif isinstance(node, ast.ClassDef):
                inner.append((node, f"{prefix}{node.name}."))
            elif isinstance(node, ast.If | ast.Try | ast.With | ast.ExceptHandler):
                inner.append((node, prefix))
        scopes += reversed(inner)


def _format_signature(function: ast.FunctionDef, file: Path) -> str:
    """Return a function's parameters without annotations, in the form of `str(inspect.signature(…))`.

    Raises:
        RTDError: a default value is nested too deeply.
    """
    for node in ast.walk(function.args):
        if isinstance(node, ast.arg):
            node.annotation = None
    try:
        return f"({ast.unparse(function.args)})"
    except RecursionError as error:
        raise RTDError(
            f"{file}, line {function.lineno}: a default value of {function.name} is nested too deeply"
        ) from error


def _read_commit(root: Path) -> str | None:
    try:
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None

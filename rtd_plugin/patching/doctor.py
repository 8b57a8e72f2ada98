"""Examines a host in this environment, without a patch and without weights."""

import ast
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from rtd_plugin.errors import RTDError
from rtd_plugin.patching.detection import Host, HostPoint, parse_source
from rtd_plugin.patching.function_reference import format_reference
from rtd_plugin.patching.manifest import MANIFEST_FILE
from rtd_plugin.patching.usage_log import VARIABLE
from rtd_plugin.printable import make_message

SHOWN = ("torch", "transformers", "clip-anytorch", "openai-clip")  # packages whose versions a report has
LONGEST_ERROR = 2000  # bytes that are read from the end of what a host prints
TIME_LIMIT = 300.0  # seconds for the import of a host and one call of its function


def examine(host: Host) -> dict[str, Any]:
    """Examine a host with the packages of this Python; the host's functions run in separate processes.

    Returns:
        `host`, `adapter`, `commit`, `python`: where and what was examined.
        `versions`: of the installed packages that compose.
        `right`: whether the host itself composes right here; an unchecked point counts as right if no fault is known.
        `points`: for each composition point `file`, `line`, `name`; `outcome`: "exact", "wrong", "failed",
        "misread" (the host takes batches that the adapter reads otherwise) or "unchecked"; `difference` from an exact
        causal encoding of the same weights, relative to the largest feature, or None; a `message`: what is wrong or
        failed, or why nothing was checked; and `patchable`: whether a patch composes here, None if unchecked.
        `known_faults`: of the versions installed here, `package`, `version`, `effect` and `remedy`.
        `missing_packages`: modules that the host imports and this Python lacks, each with the files that import it.
        `shims`: `name` and `fault` of what a patch repairs.
    """
    points = [_examine_point(host, host_point) for host_point in host.points]
    known_faults = list(_find_known_faults(host))
    outcomes = {point["outcome"] for point in points}
    return {
        "host": str(host.root),
        "adapter": host.adapter.name,
        "commit": host.commit,
        "python": sys.executable,
        "versions": {package: installed for package in SHOWN if (installed := _find_version(package))},
        "right": not outcomes & {"wrong", "failed", "misread"} and not ("unchecked" in outcomes and known_faults),
        "points": points,
        "known_faults": known_faults,
        "missing_packages": find_missing_packages(host.root),
        "shims": [{"name": shim.name, "fault": shim.fault} for shim in host.shims],
    }


def _examine_point(host: Host, host_point: HostPoint) -> dict[str, Any]:
    point = host_point.point
    result: dict[str, Any] = {"outcome": "unchecked", "difference": None, "message": "", "patchable": None}
    if point.example is None:
        result["message"] = "the adapter has no example for it"
    else:
        names = [str(host.root), point.file, point.modules[0], point.name]
        functions = (point.read, point.example, point.arguments)
        result |= _check_in_process([*names, *(format_reference(function) for function in functions if function)])
    return {"file": point.file, "line": host_point.line, "name": point.name, **result}


def _check_in_process(arguments: list[str]) -> dict[str, Any]:
    """Run `rtd_plugin.patching.self_check` in a new process group, which is killed at the time limit."""
    # Files, not pipes: a child of the host's that outlives it would keep pipes open.
    with tempfile.TemporaryFile("w+") as result, tempfile.TemporaryFile("w+", errors="replace") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "rtd_plugin.patching.self_check", str(result.fileno()), *arguments],
            env=_make_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            pass_fds=[result.fileno()],
            start_new_session=True,
        )
        try:
            code = process.wait(TIME_LIMIT)
        except subprocess.TimeoutExpired:
            message = f"not finished after {TIME_LIMIT:g} seconds: the import of the host, or its function, waits"
            return {"outcome": "failed", "message": message, "patchable": False}
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        result.seek(0)
        errors.seek(max(0, os.fstat(errors.fileno()).st_size - LONGEST_ERROR))
        error_lines = errors.read().strip().splitlines()
        # The host may end the process before there is a result, or write another.
        with suppress(ValueError, RecursionError, KeyError, TypeError):
            report = json.load(result)
            return {**report, "message": make_message(report["message"])}
    return {"outcome": "failed", "message": (error_lines or [f"exit code {code}"])[-1], "patchable": False}


def _make_environment() -> dict[str, str]:
    """Return this process's environment without active patches, and with no bytecode written into the host."""
    variables = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    variables.pop(VARIABLE, None)
    paths = variables.pop("PYTHONPATH", "").split(os.pathsep)
    paths = [path for path in paths if path and not (Path(path).parent / MANIFEST_FILE).is_file()]
    return {**variables, "PYTHONPATH": os.pathsep.join(paths)} if paths else variables


def _find_known_faults(host: Host) -> Iterator[dict[str, str]]:
    for fault in host.adapter.known_faults:
        installed = _find_version(fault.package)
        if installed and SpecifierSet(fault.versions).contains(installed, prereleases=True):
            yield {
                "package": fault.package,
                "version": installed,
                "effect": fault.effect,
                "remedy": fault.remedy,
            }


def _find_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def find_missing_packages(root: Path) -> dict[str, list[str]]:
    """Return the modules that a host's sources import and this Python lacks, each with the files that import it.

    Modules of the host itself, in whatever folder, do not count, nor do imports inside `try`.
    """
    sources = list(_list_sources(root))
    modules_of_host = {name for path in sources for name in path.relative_to(root).with_suffix("").parts}
    missing: dict[str, list[str]] = {}
    for path in sources:
        try:
            imported = set(_list_imports(parse_source(path).body))
        except RTDError:
            continue  # written for another version of Python, for example
        for name in sorted(imported - modules_of_host - set(sys.stdlib_module_names)):
            if not _is_importable(name):
                missing.setdefault(name, []).append(str(path.relative_to(root)))
    return missing


def _list_sources(root: Path) -> Iterator[Path]:
    """Yield a host's Python files, sorted; not those of hidden folders."""
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.endswith(".py") and not name.startswith("."):
                yield Path(folder, name)


def _is_importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:  # a module without a spec, such as __main__
        return True


def _list_imports(body: Iterable[ast.stmt]) -> Iterator[str]:
    """Yield top-level names that statements import, those in functions too."""
    nodes = [*body]
    while nodes:  # not recursive: `elif` after `elif` is nested without an end
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]
        elif not isinstance(node, ast.Try):
            nodes += (child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt))

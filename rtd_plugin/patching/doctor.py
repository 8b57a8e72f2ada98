"""Examines a host in this environment, without a patch and without weights."""

import ast
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from rtd_plugin.patching.detection import FoundPoint, Host
from rtd_plugin.patching.function_reference import format_reference
from rtd_plugin.patching.manifest import MANIFEST_FILE
from rtd_plugin.patching.usage_log import VARIABLE

SHOWN = ("torch", "transformers", "clip-anytorch", "openai-clip")  # whose versions a report has, if installed


@dataclass(frozen=True)
class PointReport:
    """How a composition point of a host does here.

    Attributes:
        file, line, name: of the function.
        outcome: "exact", "wrong", "failed", or "unchecked".
        difference: from an exact causal encoding of the same weights, as a part of the largest feature.
        message: what failed, or why nothing was checked.
    """

    file: str
    line: int
    name: str
    outcome: str
    difference: float | None
    message: str


@dataclass(frozen=True)
class FaultReport:
    """A version that is installed here and known to be wrong."""

    package: str
    version: str
    effect: str
    remedy: str


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor found.

    Attributes:
        host: which was examined.
        points: its composition points.
        known_faults: of the versions installed here.
        missing: packages that the host imports and this Python lacks, each with files that import it.
        versions: of what composes, as far as installed.
    """

    host: Host
    points: tuple[PointReport, ...]
    known_faults: tuple[FaultReport, ...]
    missing: dict[str, list[str]]
    versions: dict[str, str]

    @property
    def right(self) -> bool:
        """Whether the host itself composes right here; of what is unchecked, whether no fault is known."""
        outcomes = {point.outcome for point in self.points}
        return not outcomes & {"wrong", "failed"} and not ("unchecked" in outcomes and self.known_faults)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for `--json`."""
        return {
            "host": str(self.host.root),
            "adapter": self.host.adapter.name,
            "commit": self.host.commit,
            "python": sys.executable,
            "versions": self.versions,
            "right": self.right,
            "points": [asdict(point) for point in self.points],
            "known_faults": [asdict(fault) for fault in self.known_faults],
            "missing_packages": self.missing,
            "shims": [{"name": shim.name, "fault": shim.fault} for shim in self.host.shims],
        }


def examine(host: Host) -> Diagnosis:
    """Look at a host with the packages of this Python; its own function runs in a process of its own."""
    return Diagnosis(
        host=host,
        points=tuple(_examine_point(host, found) for found in host.points),
        known_faults=tuple(_known_faults(host)),
        missing=missing_packages(host.root),
        versions={package: found for package in SHOWN if (found := _version(package))},
    )


def _examine_point(host: Host, found: FoundPoint) -> PointReport:
    point = found.point
    if point.example is None:
        result = {"outcome": "unchecked", "difference": None, "message": "the adapter has no example for it"}
    else:
        names = (str(host.root), point.file, point.modules[0], point.name)
        functions = (format_reference(point.read), format_reference(point.example))
        command = [sys.executable, "-m", "rtd_plugin.patching.self_check", *names, *functions]
        done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
        lines = done.stdout.splitlines()
        if done.returncode or not lines:
            message = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            result = {"outcome": "failed", "difference": None, "message": message}
        else:
            result = json.loads(lines[-1])
    return PointReport(file=point.file, line=found.line, name=point.name, **result)


def _environment() -> dict[str, str]:
    """That of this process, without patches in force, and so that nothing is written into the host."""
    variables = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    variables.pop(VARIABLE, None)
    paths = variables.pop("PYTHONPATH", "").split(os.pathsep)
    paths = [path for path in paths if path and not (Path(path).parent / MANIFEST_FILE).is_file()]
    return {**variables, "PYTHONPATH": os.pathsep.join(paths)} if paths else variables


def _known_faults(host: Host) -> Iterator[FaultReport]:
    for fault in host.adapter.known_faults:
        installed = _version(fault.package)
        if installed and SpecifierSet(fault.versions).contains(installed, prereleases=True):
            yield FaultReport(fault.package, installed, fault.effect, fault.remedy)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def missing_packages(root: Path) -> dict[str, list[str]]:
    """Modules that a host's sources import and this Python lacks, each with the files that import it.

    What the host has itself, under whatever folder, is not looked for elsewhere, nor is what it can do without: imports
    inside `try`.
    """
    sources = [path for path in sorted(root.rglob("*.py")) if not _hidden(path.relative_to(root))]
    own = {part for path in sources for part in path.relative_to(root).with_suffix("").parts}
    missing: dict[str, list[str]] = {}
    for path in sources:
        try:
            imported = set(_imports(ast.parse(path.read_bytes()).body))
        except (SyntaxError, ValueError, OSError):
            continue  # written for another Python; what cannot be read imports nothing here
        for name in sorted(imported - own - set(sys.stdlib_module_names)):
            if importlib.util.find_spec(name) is None:
                missing.setdefault(name, []).append(str(path.relative_to(root)))
    return missing


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _imports(body: Iterable[ast.stmt]) -> Iterator[str]:
    """Top-level names that statements import, functions' included."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]
        elif not isinstance(node, ast.Try):
            yield from _imports(child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt))

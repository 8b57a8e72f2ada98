"""Run quick tests on the oldest and the newest supported versions, and patched hosts in the oldest that hosts may have.

Each runs in a separate virtual environment, which is removed when its tests have passed.

`python tests/versions.py [NAME ...]`, or `make versions`. Interpreters come from PATH or pyenv; nothing but packages is
downloaded (2 to 3 GB of torch for each). What was run, with which versions, and what was skipped is printed at the end.
Exit code 1 if something failed; what is skipped did not fail.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".venv" / "versions"
# What the tests below import beside the package itself; lower bounds as in pyproject.toml.
TEST_PACKAGES = (
    "clip-anytorch==2.6.0",
    "hypothesis>=6.100",
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "setuptools>=80,<81",
    "tensorboard>=2.18",
    "transformers>=4.44",
)
# open_clip needs torchvision, whose releases each need one release of torch.
OLDEST_TORCHVISION = "torchvision==0.21.0"
# Where versions make a difference: each library is used in one of them.
TESTS = (
    "tests/adapters",
    "tests/clip",
    "tests/contract",
    "tests/engine",
    "tests/evaluation",
    "tests/patching",
    "tests/training",
    "tests/triplets",
    "tests/test_cache.py",
    "tests/test_files.py",
    "tests/test_torchscript.py",
)
SHOWN = (
    "torch",
    "open_clip_torch",
    "transformers",
    "pydantic",
    "numpy",
    "pillow",
    "pyarrow",
    "safetensors",
    "datasets",
)


@dataclass(frozen=True)
class Environment:
    """A Python version, and whether packages are the oldest that pyproject.toml allows or the newest."""

    name: str
    python: str
    is_oldest: bool


ENVIRONMENTS = (Environment("oldest", "3.10", True), Environment("newest", "3.13", False))
UV = (sys.executable, "-m", "uv", "--quiet")
PARALLEL = ("--numprocesses", "2", "--dist", "worksteal")
HOST = "host"
HOST_PACKAGES = ("torch==1.11.0", "torchvision==0.12.0", "numpy<1.25", "clip-anytorch==2.6.0", "setuptools<81")


def list_interpreters(version: str) -> Iterator[str]:
    """Yield the Pythons of a version on this machine that start."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(f"python{version}"), *map(str, sorted(pyenv.glob(f"{version}.*/bin/python")))]
    for candidate in filter(None, candidates):
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        done = subprocess.run([candidate, "-c", code], capture_output=True, text=True)
        if done.stdout.strip() == version:
            yield candidate


def create(name: str, interpreter: str, *packages: str | Path) -> Path:
    """Create a virtual environment with packages; return its Python.

    Raises:
        CalledProcessError: something cannot be installed.
    """
    python = FOLDER / name / "bin" / "python"
    environment = ["venv", "--clear", "--no-python-downloads", "--python", interpreter, FOLDER / name]
    subprocess.run([*UV, *environment], check=True)
    subprocess.run([*UV, "pip", "install", "--python", python, *packages], check=True)
    return python


def read_versions(python: Path) -> dict[str, str]:
    """Return the version of each package of an environment, by its normalised name."""
    command = [*UV, "pip", "list", "--python", python]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(line.split()[:2] for line in listed.splitlines() if re.match(r"[\w-]+ +\d", line))


def list_newer(versions: dict[str, str], requirements: Iterable[str]) -> list[str]:
    """Return which of the packages that are shown are newer than the oldest version that the requirements allow.

    Args:
        versions: of the installed packages, by normalised name.
        requirements: as in pyproject.toml; one without a lower bound allows every version.
    """
    newer = []
    for requirement in map(Requirement, requirements):
        bounds = [Version(each.version) for each in requirement.specifier if each.operator == ">="]
        name = requirement.name.replace("_", "-")
        if bounds and requirement.name in SHOWN:
            oldest, installed = bounds[0].release, Version(versions[name]).release
            if installed[: len(oldest)] != oldest:
                newer.append(f"{name} {versions[name]} instead of {bounds[0]}")
    return sorted(set(newer))


def run(environment: Environment) -> str:
    """Test in one environment; return what to report."""
    interpreter = next(list_interpreters(environment.python), None)
    if interpreter is None:
        return f"SKIPPED: no Python {environment.python} on this machine"
    started = time.monotonic()
    resolution = ("lowest-direct", OLDEST_TORCHVISION) if environment.is_oldest else ("highest",)
    install = ("--resolution", *resolution, *TEST_PACKAGES, "--editable", f"{ROOT}[train,datasets]")
    try:
        python = create(environment.name, interpreter, *install)
    except subprocess.CalledProcessError:
        return f"FAILED: Python {environment.python}, the packages cannot be installed"
    installed = time.monotonic()
    pytest = [python, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *PARALLEL, *TESTS]
    has_passed = subprocess.run(pytest, cwd=ROOT).returncode == 0
    times = f"{installed - started:.0f} s to install, {time.monotonic() - installed:.0f} s to test"
    versions = read_versions(python)
    if has_passed:
        shutil.rmtree(FOLDER / environment.name)
    shown = ", ".join(f"{name} {versions.get(name.replace('_', '-'), 'is missing')}" for name in SHOWN)
    newer = list_newer(versions, requires("rtd-plugin") or ()) if environment.is_oldest else []
    problem = f" NOT THE OLDEST: {', '.join(newer)}" if newer else ""
    result = "PASSED" if has_passed and not newer else "FAILED"
    return f"{result}: Python {environment.python}, {shown} ({times}){problem}"


def run_host() -> str:
    """Run patched hosts with the oldest Python and torch that a patch supports; return what to report."""
    interpreter = next(list_interpreters("3.8"), None)
    if interpreter is None:
        return "SKIPPED: no Python 3.8 on this machine"
    started = time.monotonic()
    try:
        python = create(HOST, interpreter, *HOST_PACKAGES)
    except subprocess.CalledProcessError:
        return "FAILED: hosts with Python 3.8, the packages cannot be installed"
    installed = time.monotonic()
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/patching/test_other_pythons.py"]
    done = subprocess.run(pytest, cwd=ROOT, env={**os.environ, "RTD_PLUGIN_HOST_PYTHON": str(python)})
    times = f"{installed - started:.0f} s to install, {time.monotonic() - installed:.0f} s to test"
    result = "PASSED" if done.returncode == 0 else "FAILED"
    if done.returncode == 0:
        shutil.rmtree(FOLDER / HOST)
    return f"{result}: hosts with Python 3.8, {', '.join(HOST_PACKAGES)} ({times})"


def main() -> int:
    """Test in the environments that are named, by default in all, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*(environment.name for environment in ENVIRONMENTS), HOST]
    parser.add_argument("name", nargs="*", help=f"of {', '.join(names)}; default: all")
    chosen = parser.parse_args().name
    if unknown := set(chosen) - set(names):
        parser.error(f"no environment {min(unknown)}: there are {', '.join(names)}")
    reports = {env.name: run(env) for env in ENVIRONMENTS if not chosen or env.name in chosen}
    if not chosen or HOST in chosen:
        reports[HOST] = run_host()
    for name, report in reports.items():
        print(f"{name}: {report}")
    return int(any(report.startswith("FAILED") for report in reports.values()))


if __name__ == "__main__":
    sys.exit(main())

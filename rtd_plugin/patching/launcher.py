"""Runs a command with a patch active in it and in its Python children."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from rtd_plugin.errors import RTDError
from rtd_plugin.patching.manifest import SITE, WEIGHTS_FILE, Manifest, check_python_path
from rtd_plugin.patching.usage_log import VARIABLE, append, create_file, read_events, summarise
from rtd_plugin.regular_files import open_regular

PYTHON = re.compile(r"(python|pypy)[\d.]*")
# Run by a Python under a patch: whether it can use the patch, given the packages that it has to have installed.
CHECK = """
import sys
if sys.version_info < (3, 8): sys.exit("it is Python %d.%d, but a patch needs 3.8" % sys.version_info[:2])
from importlib.util import find_spec
missing = [name for name in sys.argv[1:] if find_spec(name) is None]
if missing: sys.exit("it lacks " + " and ".join(missing))
import rtd_plugin.patching.bootstrap
"""
FORWARDED = (signal.SIGTERM, signal.SIGHUP)  # a terminal sends the interrupt to all processes itself


class CommandNotFoundError(RTDError):
    """The command is not found; the exit code is that of shells."""

    exit_code = 127


def run(manifest: Manifest, command: Sequence[str]) -> tuple[int, str]:
    """Run a command in the current folder and wait for it.

    Returns:
        The exit code, 128 + n if signal n killed it, and the line about composed queries.

    Raises:
        RTDError: the host or the weights are gone, the command is not found, or is a Python that cannot use the patch.
        UsageError: the patch folder's path cannot be an entry of PYTHONPATH.
    """
    check_python_path(manifest.folder)
    for path, role in (
        (Path(manifest.host), "the host that was patched"),
        (manifest.folder / WEIGHTS_FILE, "the tuned text encoder"),
    ):
        if not path.exists():
            raise RTDError(f"{path}: {role} is gone: patch the host again")
    program = shutil.which(command[0])
    if program is None:
        raise CommandNotFoundError(f"{command[0]}: command not found")
    check_interpreter(program, manifest)
    file = create_file()
    try:
        code = _wait([program, *command[1:]], make_environment(manifest, {**os.environ, VARIABLE: file}))
        events = read_events(file) if os.path.exists(file) else None
    finally:
        with suppress(OSError):  # the command may have removed it with the temporary folder
            os.unlink(file)
    outer = os.environ.get(VARIABLE)
    if outer and events:  # started by a process that is counted itself
        with suppress(OSError):
            append(outer, events)
    return code, summarise(events, manifest.host)


def make_environment(manifest: Manifest, outer: Mapping[str, str]) -> dict[str, str]:
    """Return environment variables with which Python activates the patch."""
    # An empty entry would mean the current folder.
    paths = [str(manifest.folder / SITE), *filter(None, outer.get("PYTHONPATH", "").split(os.pathsep))]
    return {**outer, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


def check_interpreter(program: str, manifest: Manifest) -> None:
    """Check that a program, if it is Python or a script for it, can use a patch.

    Raises:
        RTDError: it is too old, or lacks packages that have to be installed for it.
    """
    python = _find_interpreter(Path(program))
    if python is None or _is_same_python(python, sys.executable):
        return
    variables = {name: value for name, value in os.environ.items() if name != VARIABLE}
    done = subprocess.run(
        [python, "-c", CHECK, *manifest.packages],
        env=make_environment(manifest, variables),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        problem = (done.stderr.strip().splitlines() or ["it does not start"])[-1]
        install = ""
        if manifest.packages:
            names = " and ".join(manifest.packages)
            install = f"install {names} for it, because {manifest.not_copied}, or "
        raise RTDError(f"{python} cannot use the patch ({problem}): {install}run the host with {sys.executable}")


def _is_same_python(first: str, second: str) -> bool:
    """Whether two paths are one Python of one environment; a virtual environment's Python is a link to its base's."""
    return Path(first).parent == Path(second).parent and os.path.realpath(first) == os.path.realpath(second)


def _find_interpreter(program: Path) -> str | None:
    """Return the Python that a program is or that a script's first line names; None if it is neither."""
    if PYTHON.fullmatch(program.name):
        return str(program)
    try:
        with open_regular(program) as file:
            first = file.readline(4096).decode(errors="replace")
    except OSError:
        return None
    words = first[2:].split() if first.startswith("#!") else []
    if words and Path(words[0]).name == "env":
        words = [word for word in words[1:] if not word.startswith("-")]
    if not words or not PYTHON.fullmatch(Path(words[0]).name):
        return None
    return shutil.which(words[0])


def _wait(command: Sequence[str], environment: Mapping[str, str]) -> int:
    try:
        process = subprocess.Popen(command, env=environment)
    except OSError as error:
        raise RTDError(f"{command[0]}: cannot be started ({error.strerror})") from error

    def forward(signum: int, _: FrameType | None) -> None:
        process.send_signal(signum)

    before = {signum: signal.signal(signum, forward) for signum in FORWARDED}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command decides what it means
    try:
        code = process.wait()
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    return code if code >= 0 else 128 - code

"""Run a command of rtd-plugin in a fork of this process, with a fault at one of its system calls that change files.

The process that forks has imported everything, so a run takes a fraction of a second. `interposer.c` says how
calls are counted and disturbed. Nothing here needs root.
"""

import ctypes
import mmap
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path

LENGTH, CALLS = 240, 8192  # as in interposer.c
TIME_LIMIT = 120.0  # seconds for one run
NAMES = {
    1: "write", 2: "open", 18: "pwrite", 20: "writev", 40: "sendfile", 74: "fsync", 75: "fdatasync", 76: "truncate",
    77: "ftruncate", 82: "rename", 83: "mkdir", 84: "rmdir", 85: "creat", 86: "link", 87: "unlink", 88: "symlink",
    90: "chmod", 91: "fchmod", 257: "open", 258: "mkdir", 263: "unlink", 264: "rename", 265: "link", 266: "symlink",
    268: "chmod", 285: "fallocate", 295: "pwritev", 316: "rename", 326: "copy_file_range", 328: "pwritev", 437: "open",
}  # fmt: skip


class Action(IntEnum):
    """What happens at a call, and for FILL and SHORTEN at all later ones too.

    COUNT: nothing. KILL: SIGKILL before it. TEAR: SIGKILL after half of what it writes. FAIL: it fails. FILL: calls
    that need space on the disk fail. SHORTEN: calls write half of what they are given.
    """

    COUNT, KILL, TEAR, FAIL, FILL, SHORTEN = range(6)


@dataclass(frozen=True)
class Fault:
    """A disturbance at the call of a number, from 1; `error` is the errno of FAIL and FILL."""

    action: Action = Action.COUNT
    at: int = 0
    error: int = 0


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        code: exit code; -9 after SIGKILL; None if it exceeded the time limit.
        calls: name and path of each call below the root folder, relative to it.
        output: what it printed, on stdout and stderr together.
    """

    code: int | None
    calls: list[tuple[str, str]]
    output: str


class _Call(ctypes.Structure):
    _fields_ = (("number", ctypes.c_int), ("path", ctypes.c_char * LENGTH))


class _Control(ctypes.Structure):
    _fields_ = (
        ("count", ctypes.c_long),
        ("at", ctypes.c_long),
        ("action", ctypes.c_int),
        ("error", ctypes.c_int),
        ("root", ctypes.c_char * LENGTH),
        ("calls", _Call * CALLS),
    )


def is_supported() -> bool:
    """Return whether faults can be injected here."""
    return sys.platform == "linux" and platform.machine() == "x86_64" and _find_compiler() is not None


def _find_compiler() -> str | None:
    return shutil.which("gcc") or shutil.which("cc")


@cache
def _load_interposer() -> ctypes.CDLL:
    source, compiler = Path(__file__).with_name("interposer.c"), _find_compiler()
    assert compiler is not None
    library = Path(tempfile.mkdtemp()) / "interposer.so"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
    return ctypes.CDLL(str(library), use_errno=True)


def run(command: Callable[[], object], root: Path, fault: Fault = Fault()) -> Ended:
    """Run a function in a fork of this process, in the folder `root`, below which calls are counted.

    The fork ends with the code of `SystemExit`, 0 if the function returns, and 70 after any other exception.
    """
    interposer = _load_interposer()
    memory = mmap.mmap(-1, ctypes.sizeof(_Control))
    control = _Control.from_buffer(memory)
    control.root, control.at, control.action, control.error = os.fsencode(root), fault.at, fault.action, fault.error
    with tempfile.TemporaryFile() as output:
        sys.stdout.flush(), sys.stderr.flush()
        child = os.fork()
        if not child:
            _run_child(command, root, output.fileno(), interposer, control)
        code = _wait(child)
        output.seek(0)
        text = output.read().decode(errors="replace")
    calls = [
        (NAMES[call.number], os.fsdecode(call.path).removeprefix(f"{root}/"))
        for call in control.calls[: min(control.count, CALLS)]
    ]
    del control
    memory.close()
    return Ended(code, calls, text)


def run_all(words: Sequence[str], root: Path, fault: Fault = Fault()) -> Ended:
    """Run a command line of rtd-plugin, as `run` does."""
    from rtd_plugin.cli.main import main

    return run(lambda: main(list(words)), root, fault)


def _run_child(
    command: Callable[[], object], root: Path, output: int, interposer: ctypes.CDLL, control: _Control
) -> None:
    code = 70
    try:
        os.dup2(output, 1), os.dup2(output, 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        os.chdir(root)
        if interposer.install(ctypes.byref(control)):
            raise OSError(ctypes.get_errno(), "the filter of system calls cannot be installed")
        command()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


def _wait(child: int) -> int | None:
    """Return a child's exit code, negative for a signal; kill it at the time limit."""
    deadline, pause = time.monotonic() + TIME_LIMIT, 0.001
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(pause)
        pause = min(0.02, 1.5 * pause)

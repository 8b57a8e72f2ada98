"""Give rtd-plugin hosts that are hostile: `patch` runs none of their code; `doctor` and `run` end, with a sentence.

    python tests/faults/hostile_hosts.py [--commands patch,doctor,run] [--hosts NAME,...]

Each host is one of this repository's miniature hosts with something added. `patch` must end within 20 seconds of CPU,
must not change a file of the host or run code of it (all of its modules, and what git would run, write a file when they
run), and may only succeed or fail with a sentence. `doctor` imports the host in separate processes, and `run` runs a
program of it: those must end too, and pass on its exit code. Exit code 1 if a check fails.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

from click.testing import CliRunner, Result
from scenarios import HOSTS, make_inputs

from rtd_plugin.cli.main import main as rtd_plugin
from rtd_plugin.patching import doctor

CPU_LIMIT = 20  # seconds
DOCTOR_LIMIT = 60.0  # seconds, in place of the product's 300
POINT = "encode_with_pseudo_tokens.py"  # the file of LinCIR's composition point


def write_git(host: Path, canary: Path) -> None:
    """Make the host a git repository whose configuration and hooks run programs."""
    subprocess.run(["git", "init", "-q", str(host)], check=True)
    touch = f"touch {canary}"
    with (host / ".git/config").open("a") as file:
        file.write(f'[core]\n\tfsmonitor = "{touch}"\n\tpager = "{touch}"\n\tsshCommand = "{touch}"\n')
        file.write(f'[alias]\n\trev-parse = "!{touch}"\n[diff]\n\texternal = "{touch}"\n')
    for hook in ("post-index-change", "reference-transaction", "post-checkout"):
        (host / ".git/hooks").mkdir(exist_ok=True)
        (host / ".git/hooks" / hook).write_text(f"#!/bin/sh\n{touch}\n")
        (host / ".git/hooks" / hook).chmod(0o755)


def write_start_files(host: Path, canary: Path) -> None:
    """Add files that Python, pip or pytest would run, and programs with the names of others."""
    code = f"open({str(canary)!r}, 'w')\n"
    for name in ("sitecustomize.py", "usercustomize.py", "conftest.py", "setup.py", "torch.py", "json.py", "re.py"):
        (host / name).write_text(code)
    for name in ("git", "python", "python3"):
        (host / name).write_text(f"#!/bin/sh\ntouch {canary}\n")
        (host / name).chmod(0o755)


def write_links(host: Path, canary: Path) -> None:
    """Add loops of links."""
    (host / "loop").symlink_to(host)
    (host / "self.py").symlink_to("self.py")
    (host / "a").symlink_to("b")
    (host / "b").symlink_to("a")
    (host / "up").symlink_to("/")


def write_deep(host: Path, canary: Path) -> None:
    """Add 600 folders in each other."""
    folder = os.open(host, os.O_RDONLY)
    for _ in range(600):
        os.mkdir("deep", dir_fd=folder)
        below = os.open("deep", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)


def write_many(host: Path, canary: Path) -> None:
    """Add 5,000 folders and files."""
    for index in range(5000):
        (host / f"folder{index}").mkdir()
        (host / f"folder{index}/module.py").touch()


def write_special(host: Path, canary: Path) -> None:
    """Add a pipe and a socket with the names of modules."""
    os.mkfifo(host / "pipe.py")
    with socket.socket(socket.AF_UNIX) as bound, suppress(OSError):
        here = Path.cwd()
        os.chdir(host)  # a socket's path is short
        bound.bind("socket.py")
        os.chdir(here)


def write_pipe_point(host: Path, canary: Path) -> None:
    """Replace the composition point's file by a pipe."""
    (host / POINT).unlink()
    os.mkfifo(host / POINT)


def write_huge(host: Path, canary: Path) -> None:
    """Add 4 GB of source, and as much at the end of the composition point's file."""
    for path in (host / "huge.py", host / POINT):
        path.touch()
        os.truncate(path, path.stat().st_size + 2**32)


def write_names(host: Path, canary: Path) -> None:
    """Add names with control characters, line breaks, bytes that are not UTF-8, and long ones."""
    for name in (
        b"\x1b[2J.py",
        b"a\nb.py",
        b"\xff\xfe.py",
        b"x" * 250 + b".py",
        b"%s%n.py",
        b"-rf.py",
        b"\xe2\x80\xae.py",
    ):
        (host / os.fsdecode(name)).write_text("import nothing_of_that_name\n")


def add_source(source: str) -> Callable[[Path, Path], None]:
    """Return a function that puts source code before that of the composition point's file."""

    def write(host: Path, canary: Path) -> None:
        path = host / POINT
        path.write_text(source + "\n" + path.read_text())

    return write


def write_bytes(content: bytes) -> Callable[[Path, Path], None]:
    """Return a function that replaces the composition point's file, and adds a module with the same content."""

    def write(host: Path, canary: Path) -> None:
        (host / POINT).write_bytes(content)
        (host / "module.py").write_bytes(content)

    return write


HOSTILE_FILES: dict[str, Callable[[Path, Path], None]] = {
    "git": write_git,
    "start files": write_start_files,
    "links": write_links,
    "deep folders": write_deep,
    "many files": write_many,
    "pipe and socket": write_special,
    "pipe as point": write_pipe_point,
    "huge files": write_huge,
    "names": write_names,
    "deep parentheses": write_bytes(b"x = " + b"(" * 50_000 + b")" * 50_000),
    "deep operators": write_bytes(b"x = " + b"-" * 200_000 + b"1"),
    "long sum": write_bytes(b"x = " + b"1+" * 200_000 + b"1"),
    "deep blocks": write_bytes(b"".join(b" " * i + b"if 1:\n" for i in range(3000)) + b" " * 3000 + b"pass"),
    "zero bytes": write_bytes(b"\0" * 1000),
    "unknown encoding": write_bytes(b"# coding: no-such\nx = 1\n"),
    "rot13": write_bytes(b"# coding: rot13\nvzcbeg bf\n"),
    "not text": write_bytes(bytes(range(256)) * 100),
    "folder as point": lambda host, canary: ((host / POINT).unlink(), (host / POINT).mkdir())[1],
}
HOSTILE_CODE = {
    "exit": "import sys\nsys.exit(3)",
    "hard exit": "import os\nos._exit(4)",
    "killed": "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
    "exception": "raise Exception('\\x1b[2J' * 3)",
    "base exception": "raise BaseException()",
    "endless": "while True:\n    pass",
    "prints at exit": "import atexit\natexit.register(print, '[' * 100000)\natexit.register(print, '{}')",
    "prints much": "print('x' * 50_000_000)",
    "closes streams": "import os, sys\nsys.stdout.close()\nos.close(2)",
    "forks": "import os, time\nif not os.fork():\n    time.sleep(600)",
    "changes folder": "import os, tempfile\nf = tempfile.mkdtemp()\nos.chdir(f)\nos.rmdir(f)",
    "signals": "import signal\nfor s in (1, 2, 15, 17):\n    signal.signal(s, signal.SIG_IGN)",
    "reads input": "import sys\nsys.stdin.read()",
    "thread": "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()",
    "recursion": "def f():\n    f()\nf()",
    "memory": "x = [bytearray(10**9) for _ in range(10**4)]",
    "hooks": "import sys\nsys.excepthook = None\nsys.stdout = None\nsys.modules['json'] = None",
}


class LimitExceeded(BaseException):
    """A command took too long."""


def _exceed(number: int, frame: FrameType | None) -> None:
    raise LimitExceeded(f"more than {CPU_LIMIT} s of CPU")


class Trials:
    """Hosts are made in a folder, which also holds a run; problems are collected.

    Args:
        folder: an empty folder.
    """

    def __init__(self, folder: Path):
        self.folder, self.problems, self.count = folder, [], 0
        make_inputs(folder / "inputs")
        recipe = str(folder / "inputs/tiny.yaml")
        self._invoke("train", "--recipe", recipe, "--output", str(folder / "run"), "--set", "evaluation=null")

    def try_host(self, name: str, commands: tuple[str, ...]) -> None:
        """Give one hostile host to commands."""
        canary = self.folder / "canary"
        host = shutil.copytree(HOSTS / "lincir", self.folder / "host")
        try:
            if name in HOSTILE_FILES:
                HOSTILE_FILES[name](host, canary)
            else:
                add_source(f"open({str(canary)!r}, 'w')\n{HOSTILE_CODE[name]}")(host, canary)
            for command in commands:
                self.count += getattr(self, f"_try_{command}")(f"{command}, {name}", host, canary)
        finally:
            shutil.rmtree(self.folder / "host-rtd-patch", ignore_errors=True)
            shutil.rmtree(host)
            canary.unlink(missing_ok=True)

    # Each returns whether it tried anything.

    def _try_patch(self, name: str, host: Path, canary: Path) -> bool:
        before = _list_files(host)
        result = self._invoke("patch", str(host), "--weights", str(self.folder / "run"), "--adapter", "lincir")
        self._judge(name, result, (0, 1, 2))
        if canary.exists():
            self._report(name, "code of the host ran")
        if _list_files(host) != before:
            self._report(name, "the host changed")
        return True

    def _try_doctor(self, name: str, host: Path, canary: Path) -> bool:
        self._judge(name, self._invoke("doctor", str(host), "--adapter", "lincir"), (0, 1, 2))
        return True

    def _try_run(self, name: str, host: Path, canary: Path) -> bool:
        """Run the hostile code itself as the program, under the patch that `patch` made before."""
        if not (self.folder / "host-rtd-patch").exists() or name.rpartition(", ")[2] not in HOSTILE_CODE:
            return False
        program = self.folder / "program.py"
        program.write_text(HOSTILE_CODE[name.rpartition(", ")[2]])
        words = [sys.executable, "-m", "rtd_plugin", "run", str(host), "--", "timeout", "30", sys.executable, program]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "check": False}
        # A file, not a pipe, which a child that outlives the program would keep open.
        with tempfile.TemporaryFile("w+", errors="replace") as errors:
            ended = subprocess.run(words, stderr=errors, timeout=300, **quiet)
            errors.seek(0)
            said = errors.read()
        alone = subprocess.run(["timeout", "30", *words[8:]], stderr=subprocess.DEVNULL, **quiet)
        code = alone.returncode if alone.returncode >= 0 else 128 - alone.returncode
        if ended.returncode not in (code, alone.returncode) or "unexpected" in said:
            self._report(name, f"ended with {ended.returncode}, not {code}: {said[-200:]!r}")
        return True

    def _invoke(self, *words: str) -> Result:
        signal.signal(signal.SIGPROF, _exceed)
        signal.setitimer(signal.ITIMER_PROF, CPU_LIMIT)
        try:
            return CliRunner().invoke(rtd_plugin, words)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    def _judge(self, name: str, result: Result, codes: tuple[int, ...]) -> None:
        if result.exit_code not in codes or not isinstance(result.exception, SystemExit | None):
            self._report(name, f"ended with {result.exit_code}: {result.exception!r}"[:300])
        if "unexpected" in result.output or "Traceback" in result.output:
            self._report(name, f"said: {result.output[-300:]!r}")
        if set("\x1b\x07\u202e") & set(result.output):
            self._report(name, f"printed control characters: {result.output[:300]!r}")
        if len(result.output) > 20_000:
            self._report(name, f"printed {len(result.output):,} characters")

    def _report(self, name: str, problem: str) -> None:
        self.problems.append(f"{name}: {problem}")
        print(self.problems[-1], flush=True)


def _list_files(host: Path) -> list[tuple[str, int, int, int]]:
    entries = []
    for folder, folders, files in os.walk(host):
        for entry in (*folders, *files):
            stat = os.lstat(os.path.join(folder, entry))
            entries.append((os.path.join(folder, entry), stat.st_mode, stat.st_size, stat.st_mtime_ns))
        if len(entries) > 30_000:
            break
    return sorted(entries)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--commands", default="patch,doctor,run", help="run is tried only after patch")
    parser.add_argument("--hosts", default=",".join((*HOSTILE_FILES, *HOSTILE_CODE)))
    args = parser.parse_args()

    doctor.TIME_LIMIT = DOCTOR_LIMIT
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(Path(folder).resolve())
        for name in args.hosts.split(","):
            trials.try_host(name, tuple(args.commands.split(",")))
    print(f"{trials.count} trials, {len(trials.problems)} problems")
    return int(bool(trials.problems))


if __name__ == "__main__":
    sys.exit(main())

"""Mutate valid files by their bytes and by their values, and read them: reading must succeed or raise an RTDError.

    python tests/faults/fuzz.py [--readers recipe,cirr,...] [--examples 2000] [--seed 0] [--jobs 2] [--keep FOLDER]

Hypothesis makes the mutations. Each reader runs in a separate process; reading one input may take 20 seconds of CPU
and 3 GB of memory. Other exceptions and exceeded limits are printed once for each line of code that raised
them, and their inputs are kept with --keep. Exit code 1 if there are failures.
"""

import argparse
import hashlib
import io
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from injection import run
from mutations import strategy_of
from readers import Reader, list_readers
from scenarios import make_inputs, set_up_process, start_over

from rtd_plugin.cli.main import main as rtd_plugin
from rtd_plugin.errors import RTDError

CPU_LIMIT, WALL_LIMIT = 20, 300  # seconds for one input
MEMORY_LIMIT = 3 * 2**30  # bytes more than the process has before
PACKAGES = ("rtd_plugin", "adapters", "rtd_adapters")


class LimitExceeded(BaseException):
    """Reading took too long; not an `Exception`, which a reader might convert to another error."""


@dataclass
class Findings:
    """The result of fuzzing one reader.

    Attributes:
        reader: its name.
        examples: inputs that were read.
        accepted: those that were read without an error.
        failures: unexpected exceptions, with an input's file each, by place.
        seconds: of all inputs.
    """

    reader: str
    examples: int = 0
    accepted: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def fuzz(reader: Reader, folder: Path, examples: int, number: int = 0, keep: Path | None = None) -> Findings:
    """Fuzz one reader in this process.

    Args:
        reader: the reader.
        folder: an empty folder for its files.
        examples: how many inputs to read.
        number: seed of the mutations.
        keep: where inputs that fail are kept.
    """
    findings, began = Findings(reader.name), time.monotonic()
    reader.write(folder)
    paths = sorted(path.relative_to(folder) for path in folder.glob(reader.mutated) if path.is_file())
    contents = {path: (folder / path).read_bytes() for path in paths}
    strategies = [st.tuples(st.just(path), strategy_of(path.name, content)) for path, content in contents.items()]

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of(strategies))
    def read(mutated: tuple[Path, bytes]) -> None:
        path, content = mutated
        (folder / path).write_bytes(content)
        findings.examples += 1
        try:
            _read_within_limits(reader, folder)
            findings.accepted += 1
        except (RTDError, *reader.allowed) as error:
            if re.search(r"unexpected \w+(Error|Exception)", str(error)):
                _keep_failure(findings, error, path, content, keep)
        except (Exception, LimitExceeded) as error:
            _keep_failure(findings, error, path, content, keep)
        if reader.changes:
            shutil.rmtree(folder)
            folder.mkdir()
            reader.write(folder)
        else:
            (folder / path).write_bytes(contents[path])

    read()
    findings.seconds = round(time.monotonic() - began, 1)
    return findings


def _read_within_limits(reader: Reader, folder: Path) -> None:
    signal.setitimer(signal.ITIMER_PROF, CPU_LIMIT)
    signal.setitimer(signal.ITIMER_REAL, WALL_LIMIT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(folder)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _exceed(number: int, frame: FrameType | None) -> None:
    raise LimitExceeded("CPU time" if number == signal.SIGPROF else "wall time")


def _keep_failure(findings: Findings, error: BaseException, path: Path, content: bytes, keep: Path | None) -> None:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if any(f"/{p}/" in f.filename for p in PACKAGES)]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    signature = f"{type(error).__name__} at {place}: {str(error)[:150]!r}"
    if any(known.partition(": ")[0] == signature.partition(": ")[0] for known in findings.failures):
        return
    file = ""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        kept = keep / f"{findings.reader}-{hashlib.sha256(content).hexdigest()[:8]}-{path.name}"
        kept.write_bytes(content)
        kept.with_name(kept.name + ".txt").write_text("".join(traceback.format_exception(error)), errors="replace")
        file = str(kept)
    findings.failures[signature] = file


def fuzz_all(names: list[str], examples: int, number: int, jobs: int, keep: Path | None = None) -> list[Findings]:
    """Fuzz readers, by default all, each in a separate process."""
    with tempfile.TemporaryDirectory(prefix="rtd-fuzz-") as base:
        root = Path(base).resolve()
        make_inputs(root / "inputs")
        for words in (
            ("train", "--recipe", "../inputs/tiny.yaml", "--output", "../inputs/run"),
            ("patch", "../inputs/host", "--weights", "../inputs/run", "--output", "../inputs/patch"),
        ):
            ended = run(partial(_run_command, root, words), start_over(root))
            if ended.code:
                raise RuntimeError(ended.output)
        readers = [reader for reader in list_readers(root / "inputs") if not names or reader.name in names]
        running: dict[int, Reader] = {}
        for reader in readers:
            if len(running) == jobs:
                running.pop(os.wait()[0])
            sys.stdout.flush(), sys.stderr.flush()
            child = os.fork()
            if not child:
                _fuzz_in_child(reader, root, examples, number, keep)
            running[child] = reader
        for child in running:
            os.waitpid(child, 0)
        return [_read_findings(root, reader) for reader in readers]


def _run_command(root: Path, words: tuple[str, ...]) -> None:
    set_up_process(root)
    rtd_plugin(list(words))


def _fuzz_in_child(reader: Reader, root: Path, examples: int, number: int, keep: Path | None) -> None:
    try:
        signal.signal(signal.SIGPROF, _exceed)
        signal.signal(signal.SIGALRM, _exceed)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_LIMIT, resource.RLIM_INFINITY))
        work = root / reader.name
        work.mkdir()
        os.environ["RTD_PLUGIN_CACHE"] = str(root / f"{reader.name}-cache")
        output = io.StringIO()
        with redirect_stdout(output), redirect_stderr(output):
            findings = fuzz(reader, work, examples, number, keep)
        (root / f"{reader.name}.json").write_text(json.dumps(vars(findings)))
        print(f"{reader.name}: {findings.examples:,} inputs in {findings.seconds} s", file=sys.stderr, flush=True)
        for failure, file in findings.failures.items():
            print(f"  {failure} {file}", file=sys.stderr, flush=True)
    except BaseException:
        print(traceback.format_exc()[-3000:], file=sys.stderr)
    finally:
        os._exit(0)


def _read_findings(root: Path, reader: Reader) -> Findings:
    file = root / f"{reader.name}.json"
    if not file.exists():
        return Findings(reader.name, failures={"the process died": ""})
    return Findings(**json.loads(file.read_text()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--readers", default="", help="names; by default all")
    parser.add_argument("--examples", type=int, default=2000, help="inputs for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="a folder for the inputs that fail")
    args = parser.parse_args()

    all_findings = fuzz_all(list(filter(None, args.readers.split(","))), args.examples, args.seed, args.jobs, args.keep)
    print(f"{'reader':20} {'inputs':>7} {'accepted':>9}  failures")
    for findings in all_findings:
        print(f"{findings.reader:20} {findings.examples:7} {findings.accepted:9}  {len(findings.failures) or ''}")
    failures = sum(len(findings.failures) for findings in all_findings)
    print(f"{sum(f.examples for f in all_findings):,} inputs, {failures} failures")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())

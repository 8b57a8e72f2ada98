"""Inject every fault of a kind into a scenario, and check the remaining files and the result of a repetition."""

import gc
import io
import json
import os
import re
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path

from injection import Action, Ended, Fault, run_all
from scenarios import (
    RECIPE,
    SCENARIOS,
    Scenario,
    age_drafts,
    list_drafts,
    make_inputs,
    read_outcome,
    set_up_process,
    start_over,
    sweep_drafts,
)
from service_client import ANSWER

from rtd_plugin.cli.main import main

PRINTED_EVERY = 50  # faults


@dataclass
class Report:
    """The outcomes of the faults that were injected into one scenario.

    Attributes:
        scenario: its name.
        calls: system calls that change files in an undisturbed run.
        outcomes: number of faults by outcome: "killed", "failed", "tolerated".
        problems: what went wrong, a line each.
        seconds: of all trials.
    """

    scenario: str
    calls: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        outcome = ", ".join(f"{count} {name}" for name, count in sorted(self.outcomes.items()))
        trouble = f", {len(self.problems)} PROBLEMS" if self.problems else ""
        faults = self.outcomes.total()
        return f"{self.scenario:16} {self.calls:6} {faults:7}  {outcome}{trouble}, {self.seconds:.0f} s"


class Trial:
    """A scenario with its undisturbed outcome.

    Args:
        root: the folder with the inputs; the work folder is made in it.
        scenario: the command.
    """

    def __init__(self, root: Path, scenario: Scenario):
        self.root, self.scenario = root, scenario
        self.inputs = self._list_inputs()
        self.initial = self._begin()
        self.undisturbed = run_all(scenario.words, root / "work")
        if self.undisturbed.code not in (0, 1) or "Error:" in self.undisturbed.output:
            raise RuntimeError(f"{scenario.name} fails without a fault: {self.undisturbed.output}")
        self.expected = read_outcome(root / "work")
        self.answers = ANSWER.findall(self.undisturbed.output)

    def _begin(self) -> dict[str, str]:
        work = start_over(self.root)
        for words in self.scenario.prepare:
            prepared = run_all(words, work)
            if prepared.code:
                raise RuntimeError(f"{self.scenario.name} cannot be prepared: {prepared.output}")
        return read_outcome(work)

    def _list_inputs(self) -> dict[str, tuple[int, int]]:
        files = (path for path in (self.root / "inputs").rglob("*") if path.is_file())
        return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}

    def check_kill(self, *faults: Fault) -> tuple[str, list[str]]:
        """Kill the command, and its repetition if there is a second fault; repeat it, and check the result."""
        self._begin()
        work, problems = self.root / "work", []
        for index, fault in enumerate(faults):
            words = self.scenario.words if index == 0 else self.scenario.repeat or self.scenario.words
            if index and self.scenario.is_done(work):
                break
            ended = run_all(words, work, fault)
            if ended.code not in (-9, self.undisturbed.code):
                problems.append(f"ended with {ended.code}: {_last_line(ended)}")
            problems += self._list_half_written(work, drafts_allowed=True)
        age_drafts(work)
        problems += self._repeat()
        return "killed", problems

    def check_error(self, fault: Fault) -> tuple[str, list[str]]:
        """Let calls of the command fail; it must report an error or work around it; repeat it, and check the result."""
        self._begin()
        work = self.root / "work"
        ended = run_all(self.scenario.words, work, fault)
        if ended.code == self.undisturbed.code and "Error:" not in ended.output:
            left = self._list_leftovers(work, ended)
            problems = _compare(self.expected, {n: d for n, d in read_outcome(work).items() if n not in left})
            problems += [f"gave another {line}" for line in ANSWER.findall(ended.output) if line not in self.answers]
            if "unexpected" in ended.output:
                problems.append(f"said: {_last_line(ended)}")
            age_drafts(work)
            return "tolerated", problems + (self._repeat() if left or list_drafts(work) else [])
        problems = []
        if ended.code != 1 or "Error: " not in ended.output:
            problems.append(f"ended with {ended.code}: {_last_line(ended)}")
        if "unexpected" in ended.output or "Traceback" in ended.output or "Exception ignored" in ended.output:
            problems.append(f"said: {_last_line(ended)}")
        problems += self._list_half_written(work, drafts_allowed=fault.action is not Action.FILL)
        age_drafts(work)
        return "failed", problems + self._repeat()

    def _repeat(self) -> list[str]:
        """Run the command again, and return what is not as it would be without a fault."""
        work, problems = self.root / "work", []
        if not self.scenario.is_done(work):
            ended = run_all(self.scenario.repeat or self.scenario.words, work)
            if ended.code != self.undisturbed.code or "Error:" in ended.output:
                problems.append(f"repeated, ended with {ended.code}: {_last_line(ended)}")
            if ANSWER.findall(ended.output) != self.answers:
                problems.append(f"repeated, answered otherwise: {_last_line(ended)}")
        problems += _compare(self.expected, read_outcome(work))
        sweep_drafts(work)
        problems += [f"the draft {name} stays" for name in list_drafts(work)]
        if self._list_inputs() != self.inputs:
            problems.append("an input changed")
        return problems

    def _list_leftovers(self, work: Path, ended: Ended) -> set[str]:
        """Return the files that the command says it could not remove: it may keep them, and removes them next time."""
        surplus = {
            name for name in read_outcome(work).keys() - self.expected.keys() if "cannot be removed" in ended.output
        }
        return {name for name in surplus if re.fullmatch(self.scenario.kept, name)}

    def _list_half_written(self, work: Path, drafts_allowed: bool) -> list[str]:
        """Return the files that are neither as before nor as they should become."""
        problems = [] if drafts_allowed else [f"left the draft {name}" for name in list_drafts(work)]
        for name, digest in read_outcome(work).items():
            is_whole = digest in (self.initial.get(name), self.expected.get(name))
            if not is_whole and not re.fullmatch(self.scenario.kept, name):
                problems.append(f"{name} is half-written")
        return problems


def _compare(expected: dict[str, str], outcome: dict[str, str]) -> list[str]:
    names = sorted({*expected, *outcome})
    return [f"{name} differs" for name in names if expected.get(name) != outcome.get(name)]


def _last_line(ended: Ended) -> str:
    return ended.output.strip().rpartition("\n")[2][:300]


Check = Callable[[Trial], Iterator[tuple[str, str, list[str]]]]
"""Injects the faults of a kind; yields a description of each, how it ended, and the problems."""


def run_trials(check: Check, names: Sequence[str], jobs: int) -> int:
    """Inject a kind of fault into scenarios, several at a time, each in a separate folder, and print the outcomes.

    A scenario's line is printed when it is done, and before that whenever `PRINTED_EVERY` more faults are.

    Args:
        check: injects the faults into one scenario.
        names: of the scenarios.
        jobs: processes.

    Returns:
        The exit code, 1 if there are problems.
    """
    print(f"{'scenario':16} {'calls':>6} {'faults':>7}  outcome", flush=True)
    scenarios = [scenario for scenario in SCENARIOS if scenario.name in names]
    with tempfile.TemporaryDirectory(prefix="rtd-faults-") as folder:
        reports, children = Path(folder).resolve() / "reports", []
        reports.mkdir()
        for job in range(min(jobs, len(scenarios))):
            sys.stdout.flush(), sys.stderr.flush()
            child = os.fork()
            if not child:
                code = 1
                try:
                    root = reports.with_name(f"{job}")
                    prepare(root, scenarios)
                    _work(check, scenarios, root, reports)
                    code = 0
                except Exception:
                    traceback.print_exc()
                finally:
                    os._exit(code)
            children.append(child)
        statuses = [os.waitpid(child, 0)[1] for child in children]
        if any(statuses):
            raise RuntimeError("a process of trials failed")
        found = {path.stem: json.loads(path.read_text()) for path in reports.glob("*.json")}
    faults = sum(sum(report["outcomes"].values()) for report in found.values())
    problems = sum(len(report["problems"]) for report in found.values())
    seconds = sum(report["seconds"] for report in found.values())
    print(f"{faults:,} faults, {problems:,} problems, {seconds:.0f} s of trials")
    return int(problems > 0)


def prepare(root: Path, scenarios: Sequence[Scenario]) -> None:
    """Write the inputs, and run the scenarios in this process, so that its forks have nothing left to import."""
    make_inputs(root / "inputs")
    set_up_process(root)
    os.chdir(start_over(root))
    command_lines = [("train", "--recipe", RECIPE, "--output", "../inputs/run")]
    for scenario in scenarios:
        command_lines += [] if scenario.starts_threads else [*scenario.prepare, scenario.words]
    for words in command_lines:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), suppress(SystemExit):
            main(words)
    gc.freeze()  # a fork's collections do not look at what was there before


def _work(check: Check, scenarios: Sequence[Scenario], root: Path, reports: Path) -> None:
    for scenario in scenarios:
        try:
            (reports / f"{scenario.name}.taken").mkdir()
        except FileExistsError:
            continue  # another process has it
        began, trial = time.monotonic(), Trial(root, scenario)
        report = Report(scenario.name, calls=len(trial.undisturbed.calls))
        for description, outcome, problems in check(trial):
            report.outcomes[outcome] += 1
            for problem in problems:
                report.problems.append(f"{description}: {problem}")
                print(f"{scenario.name}: {description}: {problem}", flush=True)
            report.seconds = round(time.monotonic() - began, 1)
            (reports / f"{scenario.name}.json").write_text(json.dumps(vars(report)))
            if report.outcomes.total() % PRINTED_EVERY == 0:
                print(report, "so far", flush=True)
        print(report, flush=True)

"""Kill rtd-plugin with SIGKILL at each system call that changes a file, and at random ones while it recovers.

    python tests/faults/kills.py [--scenarios train,patch,...] [--every 1] [--second 200] [--jobs 2]

After each kill the command is run again, and must give the undisturbed result, to the last bit, and leave no draft;
in between, no file under its final name may be half-written. Exit code 1 if a check fails.
"""

import argparse
import random
import sys
from collections.abc import Iterator

from injection import Action, Fault, is_supported
from scenarios import SCENARIOS
from trials import Trial, run_trials


def kill_everywhere(trial: Trial, every: int, second: int) -> Iterator[tuple[str, str, list[str]]]:
    """Kill a scenario at each `every`-th call, before it and amid what it writes; then `second` times twice."""
    calls = trial.undisturbed.calls
    for at in range(1, len(calls) + 1, every):
        name, path = calls[at - 1]
        for action in (Action.KILL, Action.TEAR) if "write" in name else (Action.KILL,):
            when = "before" if action is Action.KILL else "amid"
            yield f"killed {when} call {at}, {name} {path}", *trial.check_kill(Fault(action, at))
    rng = random.Random(trial.scenario.name)
    for _ in range(second):
        first, again = rng.randint(1, len(calls)), rng.randint(1, len(calls))
        faults = Fault(Action.KILL, first), Fault(Action.KILL, again)
        yield f"killed at call {first}, and at call {again} of the repetition", *trial.check_kill(*faults)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scenarios", default=",".join(scenario.name for scenario in SCENARIOS))
    parser.add_argument("--every", type=int, default=1, help="kill only at every N-th call")
    parser.add_argument("--second", type=int, default=200, help="kills of a command and its repetition, a scenario")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()

    if not is_supported():
        print("Needs Linux on x86-64, and gcc.", file=sys.stderr)
        return 2
    names = args.scenarios.split(",")
    return run_trials(lambda trial: kill_everywhere(trial, args.every, args.second), names, args.jobs)


if __name__ == "__main__":
    sys.exit(main())

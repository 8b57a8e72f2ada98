"""Let rtd-plugin meet a full disk, an input/output error, or short writes at each system call that changes a file.

    python tests/faults/full_disk.py [--scenarios train,patch,...] [--every 1] [--jobs 2]

A full disk refuses every call that needs space, from the given call on; an error occurs once; short writes write half
of their data, which is not an error. The command must either work around the fault and give the undisturbed result, or
end with a message and exit code 1, and leave nothing half-written and no draft; run again, it must give the undisturbed
result. Exit code 1 if a check fails.
"""

import argparse
import errno
import sys
from collections.abc import Iterator

from injection import Action, Fault, is_supported
from scenarios import SCENARIOS
from trials import Trial, run_trials


def fail_everywhere(trial: Trial, every: int) -> Iterator[tuple[str, str, list[str]]]:
    """Disturb a scenario at each `every`-th call: with a full disk, and with an error; and shorten all its writes."""
    calls = trial.undisturbed.calls
    for at in range(1, len(calls) + 1, every):
        name, path = calls[at - 1]
        for fault in (Fault(Action.FILL, at, errno.ENOSPC), Fault(Action.FAIL, at, errno.EIO)):
            yield f"{errno.errorcode[fault.error]} at call {at}, {name} {path}", *trial.check_error(fault)
    yield "short writes", *trial.check_error(Fault(Action.SHORTEN, 1))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scenarios", default=",".join(scenario.name for scenario in SCENARIOS))
    parser.add_argument("--every", type=int, default=1, help="disturb only every N-th call")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()

    if not is_supported():
        print("Needs Linux on x86-64, and gcc.", file=sys.stderr)
        return 2
    names = args.scenarios.split(",")
    return run_trials(lambda trial: fail_everywhere(trial, args.every), names, args.jobs)


if __name__ == "__main__":
    sys.exit(main())

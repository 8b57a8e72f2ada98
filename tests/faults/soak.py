"""A long run of the miniature, with validation and checkpoints: memory, open files and step time must stay flat.

    python tests/faults/soak.py [--steps 20000] [--batch-size 64] [--every 500] [--output FILE.json]

Prints a line for each window of steps, and at the end how much each figure grew from the second quarter of the windows
to the last: a leak goes on, while caches and the allocator's memory fill in the first. Exit code 1 if a figure grew by
more than its bound. Step time is the process's CPU time, with one thread, which other programs on the machine disturb
least.
"""

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from rtd_plugin.contract import hookimpl, plugins
from rtd_plugin.workflows.train import train

BOUNDS = {
    "memory_mb": 0.02,
    "open_files": 0.0,
    "threads": 0.0,
    "step_ms": 0.1,
    "objects": 0.02,
    "folder_mb": 0.5,  # two checkpoints are kept, and the best as a third
}


@dataclass(frozen=True)
class Window:
    """The state of the process after some steps; `step_ms` is the median of the window's steps."""

    step: int
    memory_mb: float
    open_files: int
    threads: int
    step_ms: float
    objects: int
    folder_mb: float


@dataclass
class Monitor:
    """The plugin that measures at the end of each window."""

    every: int
    windows: list[Window] = field(default_factory=list)
    _durations: list[float] = field(default_factory=list)
    _ended: float | None = None

    @hookimpl
    def rtd_step_ended(self, run, report):
        """Note the step's CPU time; at the end of a window, measure."""
        now = time.process_time()
        if self._ended is not None:
            self._durations.append(now - self._ended)
        self._ended = now
        if report.step % self.every == 0:
            self.windows.append(measure(report.step, 1000 * statistics.median(self._durations), run.folder))
            self._durations, self._ended = [], None  # what validation and checkpoints take is not a step's
            print(json.dumps(asdict(self.windows[-1])), flush=True)


def measure(step: int, step_ms: float, folder: Path) -> Window:
    """Return the state of this process."""
    gc.collect()
    # Without the pages of files, such as libraries, which the kernel drops and reads again as it likes.
    anonymous = next(line for line in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in line)
    return Window(
        step=step,
        memory_mb=round(int(anonymous.split()[1]) / 2**10, 1),
        open_files=len(os.listdir("/proc/self/fd")),
        threads=threading.active_count(),
        step_ms=round(step_ms, 2),
        objects=len(gc.get_objects()),
        # Metrics grow by a line a step; what is left over from checkpoints would grow by megabytes.
        folder_mb=round(sum(f.stat().st_size for f in folder.rglob("*") if f.suffix != ".jsonl") / 2**20, 1),
    )


def compute_growth(windows: list[Window]) -> dict[str, float]:
    """Return by how much each figure grew, as a share."""
    quarter = max(1, len(windows) // 4)

    def grow(name: str) -> float:
        first, last = (
            statistics.median(getattr(window, name) for window in part)
            for part in (windows[quarter : 2 * quarter], windows[-quarter:])
        )
        return round(last / first - 1, 4)

    return {name: grow(name) for name in BOUNDS}


def soak(steps: int, batch_size: int, every: int, folder: Path) -> list[Window]:
    """Train in `folder`, with a validation and a checkpoint at the end of each window."""
    monitor = Monitor(every)
    overrides = [
        f"steps={steps}",
        f"batch_size={batch_size}",
        f"validation={{benchmark: miniature, split: development, every: {every}}}",
        f"checkpoints.every={every}",
        "optimizer.learning_rate=1e-4",
        "evaluation=null",
    ]
    with plugins.use_plugins(monitor):
        train("lincir-miniature", overrides=overrides, output=folder)
    return monitor.windows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--every", type=int, default=500, help="steps of a window")
    parser.add_argument("--output", type=Path, help="JSON file for all windows")
    args = parser.parse_args()

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        windows = soak(args.steps, args.batch_size, args.every, Path(folder) / "run")
    growth = compute_growth(windows)
    result = {"first": asdict(windows[1]), "last": asdict(windows[-1]), "growth": growth, "bounds": BOUNDS}
    print(json.dumps(result, indent=2))
    if args.output:
        args.output.write_text(json.dumps({**result, "windows": [asdict(w) for w in windows]}, indent=2))
    return int(any(growth[name] > bound for name, bound in BOUNDS.items()))


if __name__ == "__main__":
    sys.exit(main())

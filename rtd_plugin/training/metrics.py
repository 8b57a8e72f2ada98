"""The log of a run: `metrics.jsonl` and the tracker."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from rtd_plugin.errors import RTDError
from rtd_plugin.files import write_text
from rtd_plugin.regular_files import read_text

METRICS_FILE = "metrics.jsonl"

Metrics = Mapping[str, Any]


class MetricsLog:
    """`metrics.jsonl`, one object per line, and the tracker; both only on the main process.

    Args:
        path: the file. Lines of steps that a resumed run takes again are removed from it.
        resumed: the step that the run resumes from, None for a new run.
        accelerator: whose trackers get the same values, nested names joined by dots.
    """

    def __init__(self, path: Path, resumed: int | None, accelerator: Accelerator):
        self.path = path
        self.accelerator = accelerator
        if accelerator.is_main_process:
            lines = [] if resumed is None else [line for line in _read_lines(path) if _parse_step(line) <= resumed]
            write_text(path, "".join(f"{line}\n" for line in lines))

    def write(self, step: int, **values: Any) -> None:
        """Add a line.

        Raises:
            RTDError: the disk is full, for example.
        """
        if self.accelerator.is_main_process:
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"step": step, **values}) + "\n")
            except OSError as error:
                raise RTDError(f"{self.path}: cannot be written ({error.strerror})") from error
        self.accelerator.log(dict(flatten(values)), step=step)


def flatten(values: Any, *path: str) -> Iterator[tuple[str, Any]]:
    """Yield nested mappings and lists as pairs of a dotted name and a plain value."""
    if isinstance(values, Mapping | list):
        pairs = values.items() if isinstance(values, Mapping) else enumerate(values)
        for name, value in pairs:
            yield from flatten(value, *path, str(name))
    else:
        yield ".".join(path), values


def merge_metrics(results: Iterable[Metrics]) -> dict[str, Any]:
    """Merge the metrics of several plugins.

    Raises:
        RTDError: two plugins give a metric of the same name.
    """
    metrics: dict[str, Any] = {}
    for result in results:
        for name, value in result.items():
            if name in metrics:
                raise RTDError(f"two plugins give the validation metric {name!r}: leave one of them out")
            metrics[name] = value
    return metrics


def select_metric(metrics: Metrics, name: str) -> float:
    """Return a metric by its name, dotted where metrics are nested.

    Raises:
        RTDError: there is no such metric, or it is not a number.
    """
    values = dict(flatten(metrics))
    if name not in values:
        raise RTDError(f"validation.select: no metric {name!r}; found {', '.join(values) or 'none'}")
    value = values[name]
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise RTDError(f"validation.select: the metric {name} is {value!r}, not a number to compare")
    return float(value)


def read_validation(path: Path, select: str) -> list[tuple[int, float]]:
    """Return the steps at which a run was validated, with the metric that selects, from its `metrics.jsonl`.

    Raises:
        RTDError: a line has no such metric.
    """
    records = [json.loads(line) for line in _read_lines(path) if _parse_step(line) < math.inf]
    return [
        (record["step"], select_metric(record["validation"], select)) for record in records if "validation" in record
    ]


def _read_lines(path: Path) -> list[str]:
    return read_text(path, errors="replace").splitlines() if path.exists() else []


def _parse_step(line: str) -> float:
    """Return the step of a line; infinity for half a line, which a killed run leaves."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return math.inf

"""The log of a run."""

import json
import math
from types import SimpleNamespace

import pytest

from rtd_plugin.errors import RTDError
from rtd_plugin.training.metrics import MetricsLog, flatten, select_metric

LINES = ['{"step": 0, "validation": {}}', '{"step": 1, "loss": 3.5}', '{"step": 2, "loss": 3.25}', '{"step": 3}']


@pytest.fixture
def tracker_log():
    return []


@pytest.fixture
def accelerator(tracker_log):
    """As much of an accelerator as the log needs."""
    return SimpleNamespace(is_main_process=True, log=lambda values, step: tracker_log.append((step, values)))


@pytest.mark.parametrize(("resumed", "kept"), [(None, 0), (0, 1), (1, 2), (2, 3), (9, 4)])
def test_lines_of_steps_that_are_taken_again_are_dropped(tmp_path, accelerator, resumed, kept):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f"{line}\n" for line in LINES))
    log = MetricsLog(path, resumed, accelerator)
    assert path.read_text().splitlines() == LINES[:kept]
    log.write(7, loss=1.5)
    assert path.read_text().splitlines() == [*LINES[:kept], '{"step": 7, "loss": 1.5}']


@pytest.mark.parametrize(
    "rest", ['{"step": 2, "lo', '{"step": 2', "\0\0\0", "", "[]\n7\n\n", '{"loss": 1}\n', '{"step": "x"}']
)
def test_a_broken_end(tmp_path, accelerator, rest):
    """As after a killed run or a power failure."""
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join([*LINES[:2], rest]))
    MetricsLog(path, 2, accelerator)
    assert path.read_text().splitlines() == LINES[:2]


def test_values_go_to_the_file_and_the_tracker(tmp_path, accelerator, tracker_log):
    log = MetricsLog(tmp_path / "run" / "metrics.jsonl", None, accelerator)
    log.write(4, loss=0.5, validation={"recall_at_1": 10.0, "seen": {"recall_at_1": 11.0}})
    assert json.loads(log.path.read_text()) == {
        "step": 4,
        "loss": 0.5,
        "validation": {"recall_at_1": 10.0, "seen": {"recall_at_1": 11.0}},
    }
    values = {"loss": 0.5, "validation.recall_at_1": 10.0, "validation.seen.recall_at_1": 11.0}
    assert tracker_log == [(4, values)]


def test_other_processes_do_not_write(tmp_path, accelerator):
    accelerator.is_main_process = False
    MetricsLog(tmp_path / "metrics.jsonl", None, accelerator).write(1, loss=2.0)
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written(tmp_path, accelerator):
    log = MetricsLog(tmp_path / "metrics.jsonl", None, accelerator)
    log.path.unlink()
    log.path.mkdir()
    with pytest.raises(RTDError, match=r"metrics.jsonl: cannot be written \(Is a directory\)"):
        log.write(1, loss=2.0)


def test_a_metric_is_selected_by_its_dotted_name():
    metrics = {"recall_at_1": 40, "seen": {"recall_at_1": 50.5, "odd": math.nan, "text": "x"}}
    assert select_metric(metrics, "recall_at_1") == 40.0
    assert select_metric(metrics, "seen.recall_at_1") == 50.5
    for name in ("seen", "recall_at_2", "seen.recall_at_2", "recall_at_1.seen", ""):
        with pytest.raises(RTDError, match=rf"no metric '{name}'; found recall_at_1, seen.recall_at_1, seen.odd"):
            select_metric(metrics, name)
    for name, value in (("seen.odd", "nan"), ("seen.text", "'x'")):
        with pytest.raises(RTDError, match=f"validation.select: the metric {name} is {value}"):
            select_metric(metrics, name)


def test_nested_metrics_are_flattened():
    assert dict(flatten({"a": 1, "b": {"c": [2, {"d": None}]}})) == {"a": 1, "b.c.0": 2, "b.c.1.d": None}

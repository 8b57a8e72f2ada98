"""Runs that are killed or interrupted: after `--resume`, the same as if nothing had happened."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from rtd_plugin.workflows import train as training


def losses(run: Path) -> list[str]:
    """Everything in the log but the speed, which is no two times the same."""
    return [line.split(', "triplets_per_second"')[0] for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same(run: Path, undisturbed: Path) -> None:
    assert losses(run) == losses(undisturbed)
    one, other = (load_file(folder / "text_encoder.safetensors") for folder in (run, undisturbed))
    assert one.keys() == other.keys()
    assert all(one[name].equal(other[name]) for name in one)


@pytest.fixture
def train(start, files):
    return lambda *args: start("train", "--recipe", files / "tiny.yaml", "--output", "run", *args)


def ended(process) -> int:
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode


def when(condition, process) -> None:
    """Wait until something is so, while a process still runs."""
    while process.is_alive() and not condition():
        time.sleep(0.001)


def test_killed_at_random_moments(train, finished, tmp_path):
    """At start-up, in a step, while a checkpoint is written, at the end: whenever it comes."""
    moments = random.Random(7)
    run = tmp_path / "run"
    kills = 0
    process = train("--resume")
    for _ in range(12):
        process.join(moments.uniform(0, 1.2))
        if process.exitcode is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        assert ended(process) == -signal.SIGKILL
        kills += 1
        process = train("--resume")
    assert ended(process) == 0, (tmp_path / "output.txt").read_text()
    assert kills
    assert_same(run, finished)


@pytest.mark.parametrize("draft", [".step-000002.*/**/tower.safetensors", ".step-000004.*/**/optimizer.pt"])
def test_killed_while_a_checkpoint_is_written(train, finished, tmp_path, draft):
    process = train()
    when(lambda: list((tmp_path / "run/checkpoints").glob(draft)), process)
    os.kill(process.pid, signal.SIGKILL)
    assert ended(process) == -signal.SIGKILL
    assert not (tmp_path / "run/checkpoints" / draft[1:12]).exists()
    process = train("--resume")
    assert ended(process) == 0
    assert_same(tmp_path / "run", finished)


def test_killed_before_the_result_is_written(train, finished, tmp_path):
    process = train()
    when((tmp_path / "run/checkpoints/step-000006").exists, process)
    os.kill(process.pid, signal.SIGKILL)
    ended(process)
    assert ended(train("--resume")) == 0
    assert_same(tmp_path / "run", finished)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_interrupted(train, finished, tmp_path, number):
    """The step is finished, a checkpoint written, and it says what to type."""
    process = train()
    when(lambda: (tmp_path / "run/metrics.jsonl").exists() and len(losses(tmp_path / "run")) >= 3, process)
    os.kill(process.pid, number)
    assert ended(process) == 1
    said = (tmp_path / "output.txt").read_text()
    last = losses(tmp_path / "run")[-1]
    step = int(last.split(":")[1].split(",")[0])
    assert said.splitlines()[-1].startswith(f"Error: interrupted after step {step} of 6")
    assert said.endswith("rtd-plugin train --resume --output run\n")
    assert "Traceback" not in said
    assert (tmp_path / f"run/checkpoints/step-{step:06d}").is_dir()
    assert not (tmp_path / "run/text_encoder.safetensors").exists()
    assert ended(train("--resume")) == 0
    assert_same(tmp_path / "run", finished)


def test_interrupted_while_loading(rtd, files, tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "load_run", interrupted)
    done = rtd("train", "--recipe", files / "tiny.yaml", "--output", "run")
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "\nAborted!\n")
    assert not (tmp_path / "run").exists()

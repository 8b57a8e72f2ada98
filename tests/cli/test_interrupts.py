"""Runs that are killed or interrupted: after `--resume`, the result equals that of an undisturbed run."""

import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file

from rtd_plugin.workflows import train as training


def losses(run: Path) -> list[str]:
    """Return the lines of the log without the speed, which varies."""
    return [line.split(', "triplets_per_second"')[0] for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same(run: Path, undisturbed: Path) -> None:
    assert losses(run) == losses(undisturbed)
    one, other = (load_file(folder / "text_encoder.safetensors") for folder in (run, undisturbed))
    assert one.keys() == other.keys()
    assert all(one[name].equal(other[name]) for name in one)


@pytest.fixture
def train(start, files):
    """Train in another process and return its exit code."""

    def train(*args, signal_at=None) -> int:
        process = start("train", "--recipe", files / "tiny.yaml", "--output", "run", *args, signal_at=signal_at)
        process.join()
        return process.exitcode

    return train


@pytest.mark.slow
def test_killed_at_many_moments(train, finished_run, tmp_path):
    """At start-up, in a step, while a checkpoint is written, at the end: each process runs a little longer."""
    kills = 0
    while (code := train("--resume", signal_at=(None, 100 * 2**kills, signal.SIGKILL))) != 0:
        assert code == -signal.SIGKILL, (tmp_path / "output.txt").read_text()
        kills += 1
    assert kills > 2
    assert_same(tmp_path / "run", finished_run)


@pytest.mark.parametrize(
    ("event", "text"),
    [("os.mkdir", ".step-000002."), ("open", "progress.json"), ("os.rename", "step-000004")],
    ids=["empty", "without progress", "not renamed"],
)
def test_killed_while_a_checkpoint_is_written(train, finished_run, tmp_path, event, text):
    assert train(signal_at=(event, text, signal.SIGKILL)) == -signal.SIGKILL
    drafts = list((tmp_path / "run/checkpoints").glob(".step-*"))
    assert len(drafts) == (event != "os.mkdir"), "the event comes before the folder is made"
    assert len(list((tmp_path / "run/checkpoints").glob("step-*"))) == (event == "os.rename")
    assert train("--resume") == 0
    assert_same(tmp_path / "run", finished_run)


def test_killed_before_the_result_is_written(train, finished_run, tmp_path):
    assert train(signal_at=("os.rename", "text_encoder.safetensors", signal.SIGKILL)) == -signal.SIGKILL
    assert (tmp_path / "run/checkpoints/step-000006").exists()
    assert not (tmp_path / "run/text_encoder.safetensors").exists()
    assert train("--resume") == 0
    assert_same(tmp_path / "run", finished_run)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_interrupted(train, finished_run, tmp_path, number):
    """The step is finished, a checkpoint is written, and the message has the command to resume."""
    assert train(signal_at=("os.rename", "step-000002", number)) == 1
    said = (tmp_path / "output.txt").read_text()
    last = losses(tmp_path / "run")[-1]
    step = int(last.split(":")[1].split(",")[0])
    assert said.splitlines()[-1].startswith(f"Error: interrupted after step {step} of 6")
    assert said.endswith("rtd-plugin train --resume --output run\n")
    assert "Traceback" not in said
    assert (tmp_path / f"run/checkpoints/step-{step:06d}").is_dir()
    assert not (tmp_path / "run/text_encoder.safetensors").exists()
    assert train("--resume") == 0
    assert_same(tmp_path / "run", finished_run)


def test_interrupted_while_loading(rtd, files, tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "load_run", interrupt)
    done = rtd("train", "--recipe", files / "tiny.yaml", "--output", "run")
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "\nAborted!\n")
    assert not (tmp_path / "run").exists()

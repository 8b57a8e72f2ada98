"""A run that is stopped in any way ends with the result of an undisturbed one."""

import os
import signal
import threading
import time

import pytest

from rtd_plugin.training.interrupts import catch_interrupts
from rtd_plugin.training.loop import Interrupted


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_of_the_last_finished_step(train_run, make_run, metrics, same_weights, signum):
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]

    def interrupt(step):
        if step.step == 3:
            os.kill(os.getpid(), signum)

    with pytest.raises(Interrupted, match=r"interrupted after step 3 of 6; .*/run can resume"):
        train_run(report=interrupt)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert (make_run().folder / "checkpoints" / "step-000003").is_dir()
    weights, step = train_run()
    assert step == 6
    assert same_weights(weights, train_run("undisturbed")[0])
    assert metrics() == metrics("undisturbed")


def test_a_signal_in_the_last_step_changes_nothing(train_run):
    def interrupt(step):
        if step.step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    assert train_run(report=interrupt)[1] == 6


def test_a_second_ctrl_c_stops_at_once():
    handler = signal.getsignal(signal.SIGINT)  # where a shell started this in the background, one that ignores it
    with pytest.raises(KeyboardInterrupt), catch_interrupts() as interrupted:  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupted()
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_is_stopped_from_outside(train_run, metrics, same_weights, start, recipe_file, tmp_path, signum):
    process = start("one_run.py", RECIPE=recipe_file, FOLDER=tmp_path / "run", OVERRIDES=["steps=100000"])
    log = tmp_path / "run" / "metrics.jsonl"
    while process.is_alive() and not (log.exists() and log.read_text().count("\n") > 4):
        time.sleep(0.01)
    os.kill(process.pid, signum)
    process.join()
    assert process.exitcode == (-9 if signum == signal.SIGKILL else 3)
    steps = metrics()[-1]["step"] + 2
    weights, step = train_run("run", f"steps={steps}")
    assert step == steps
    assert same_weights(weights, train_run("undisturbed", f"steps={steps}")[0])
    assert metrics() == metrics("undisturbed")


def test_training_outside_the_main_thread(train_run):
    results = []
    thread = threading.Thread(target=lambda: results.append(train_run()))
    thread.start()
    thread.join()
    assert results[0][1] == 6

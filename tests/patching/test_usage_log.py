"""The line at the end of a process."""

import os

import pytest

from rtd_plugin.patching import usage_log
from rtd_plugin.patching.usage_log import (
    COMPOSED,
    FAILED,
    HIDDEN,
    IMPORTED,
    KEPT,
    REPAIRED,
    STARTED,
    UsageLog,
    summarise,
)

ZERO = "warning: no composed query used the tuned text encoder"


@pytest.mark.parametrize(
    ("events", "line"),
    [
        ([], f"{ZERO}: no Python of the command activated the patch (one started with -I, -E or -S does not)"),
        ([(STARTED, 1, 1, "")], f"{ZERO}: no composition point of /code was imported"),
        ([(IMPORTED, 1, 1, "")], f"{ZERO}: a composition point of /code was imported, but never called"),
        ([(KEPT, 1, 3, "")], f"{ZERO}; 3 calls from training code kept the pre-trained one"),
        ([(KEPT, 1, 1, "")], f"{ZERO}; 1 call from training code kept the pre-trained one"),
        ([(FAILED, 1, 1, "no\n such"), (FAILED, 1, 1, "no such")], f"{ZERO}; failed: no such"),
        ([(COMPOSED, 1, 1, "")], "1 composed query used the tuned text encoder"),
        ([(COMPOSED, 1, 2, ""), (COMPOSED, 2, 3, "")], "5 composed queries used the tuned text encoder in 2 processes"),
        (
            [(COMPOSED, 1, 2, ""), (REPAIRED, 1, 1, "b"), (REPAIRED, 2, 1, "b"), (REPAIRED, 1, 1, "a")],
            "2 composed queries used the tuned text encoder; repaired: b, a",
        ),
        ([(COMPOSED, 1, 2, ""), (FAILED, 1, 1, "x")], "2 composed queries used the tuned text encoder; failed: x"),
        (
            [(STARTED, 1, 1, ""), (HIDDEN, 1, 1, "KeyError: 'x'")],
            f"{ZERO}: no composition point of /code was imported; the host hid an error: KeyError: 'x'",
        ),
    ],
)
def test_the_line_at_the_end_reports_all_events(events, line):
    assert summarise(events, "/code") == f"rtd-plugin: {line}"


def test_a_log_that_is_gone_is_reported():
    assert "warning: composed queries were not counted: the command removed" in summarise(None, "/code")


def test_a_current_folder_that_is_gone(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setenv(usage_log.VARIABLE, str(tmp_path / "log"))
    (tmp_path / "log").touch()
    UsageLog().add(COMPOSED, 1)
    assert len(usage_log.read_events(tmp_path / "log")) == 1


def test_events_of_several_processes_go_to_one_file(tmp_path):
    file = tmp_path / "usage.jsonl"
    file.touch()
    usage_log.append(file, [(COMPOSED, 1, 2, "")])
    usage_log.append(file, [(REPAIRED, 2, 1, "ψ\n")])
    assert usage_log.read_events(file) == [(COMPOSED, 1, 2, ""), (REPAIRED, 2, 1, "ψ\n")]


def test_a_missing_file_is_ignored(tmp_path, monkeypatch):
    monkeypatch.setenv(usage_log.VARIABLE, str(tmp_path / "gone"))
    log = UsageLog()
    log.add(COMPOSED, 5)
    assert usage_log.read_events(tmp_path / "gone") == []


def test_without_a_launcher_the_first_process_makes_the_file(tmp_path, monkeypatch):
    monkeypatch.delenv(usage_log.VARIABLE, raising=False)
    log = UsageLog()
    assert usage_log.VARIABLE not in os.environ, "no event yet"
    log.add(COMPOSED, 5)
    file = os.environ[usage_log.VARIABLE]
    assert usage_log.read_events(file) == [(COMPOSED, os.getpid(), 5, "")]
    child = UsageLog()
    child.add(COMPOSED, 2)
    assert len(usage_log.read_events(file)) == 2
    os.unlink(file)

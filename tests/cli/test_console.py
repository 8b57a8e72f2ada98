"""Progress: a bar on a terminal, plain lines elsewhere."""

import contextlib
import os
import pty
import sys

import pytest

from rtd_plugin.cli import console


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_come_now_and_then(capsys, clock):
    with console.progress("Training") as advance:
        for step in range(1, 31):
            clock[0] += 1
            advance(step, 30, f"loss {step}")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "Training 10/30 loss 10\nTraining 20/30 loss 20\nTraining 30/30 loss 30\n"


def test_the_last_line_always_comes(capsys, clock):
    with console.progress("Encoding images") as advance:
        advance(5, 7)
        advance(7, 7)
    assert capsys.readouterr().err == "Encoding images 7/7\n"


def test_nothing_is_shown_by_other_processes(capsys, clock):
    with console.progress("Training", shown=False) as advance:
        clock[0] += 60
        advance(1, 1)
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_a_terminal(capfd, monkeypatch):
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with console.progress("Training") as advance:
            advance(1, 2, "loss 3.000")
            advance(2, 2, "loss 2.500")
    shown = _read_to_the_end(ours)
    assert "Training" in shown
    assert "2/2" in shown
    assert "loss 2.500" in shown
    assert "━" in shown
    assert "\x1b[" in shown
    assert capfd.readouterr().out == ""


def _read_to_the_end(terminal: int) -> str:
    """All that a terminal was sent: it comes in pieces, and ends with an error once the other side is closed."""
    with os.fdopen(terminal, "rb", buffering=0) as file:
        parts = []
        with contextlib.suppress(OSError):
            while part := file.read(4096):
                parts.append(part)
    return b"".join(parts).decode()


@pytest.mark.parametrize("stream", [console.out, console.err])
def test_brackets_and_colons_in_paths_are_no_markup(stream, capsys):
    stream().print("runs/[bold]a[/bold] :car:", soft_wrap=True)
    assert "".join(capsys.readouterr()) == "runs/[bold]a[/bold] :car:\n"

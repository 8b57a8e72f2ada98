"""Progress: a bar on a terminal, plain lines elsewhere."""

import contextlib
import io
import json
import logging
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


def test_plain_lines_are_printed_at_intervals(capsys, clock):
    with console.progress("Training") as advance:
        for step in range(1, 31):
            clock[0] += 1
            advance(step, 30, f"loss {step}")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "Training 10/30 loss 10\nTraining 20/30 loss 20\nTraining 30/30 loss 30\n"


def test_the_last_line_is_always_printed(capsys, clock):
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
    """Return all that a terminal received; reading ends with an error once the other side is closed."""
    with os.fdopen(terminal, "rb", buffering=0) as file:
        blocks = []
        with contextlib.suppress(OSError):
            while block := file.read(4096):
                blocks.append(block)
    return b"".join(blocks).decode()


@pytest.mark.parametrize("stream", [console.out, console.err])
def test_brackets_and_colons_in_paths_are_not_markup(stream, capsys):
    stream().print("runs/[bold]a[/bold] :car:", soft_wrap=True)
    assert "".join(capsys.readouterr()) == "runs/[bold]a[/bold] :car:\n"


def test_a_terminal_without_unicode_gets_codes(monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", stdout)
    with console.clean_messages():
        console.print_json({"name": "ψ\udcff é"})
        console.print_text("ψ\udcff\n")
        console.print_lines("ψ\udcff")
    stdout.flush()
    shown = stdout.buffer.getvalue().decode("latin-1")
    document, lines = shown[: shown.index("}") + 1], shown[shown.index("}") + 2 :]
    assert json.loads(document) == {"name": "ψ\udcff é"}
    assert lines == "\\u03c8\\udcff\n" * 2


def test_a_finished_bar_shows_its_total(monkeypatch):
    """Also when the work was already done and its total never reported."""
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with console.progress("Tokenising triplets"):
            pass
        with console.progress("Checking") as advance:
            advance(3, 0)
    last = [line for line in _read_to_the_end(ours).replace("\x1b[2K", "").splitlines() if "/" in line][-1]
    assert "3/3" in last
    assert "Checking" in last


def test_loading_is_announced_only_on_a_terminal(capsys, monkeypatch):
    console.announce_loading()
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    console.announce_loading()
    assert capsys.readouterr().err == "Loading …\n"


def test_log_messages_of_the_package_are_plain_lines(capsys):
    with console.clean_messages():
        logging.getLogger("rtd_plugin.workflows.train").info("Resuming %s.", "runs/a\x1b")
    logging.getLogger("rtd_plugin.workflows.train").info("unseen")
    assert capsys.readouterr().err == "Resuming runs/a\\x1b.\n"

"""The command line itself: help, exit codes, --json, --debug."""

import errno
import json
import logging
import subprocess
import sys
from pathlib import Path

import click
import pytest

from rtd_plugin.cli import console
from rtd_plugin.cli.export import LAYOUTS
from rtd_plugin.cli.main import COMMANDS, main
from rtd_plugin.clip import layouts
from rtd_plugin.errors import RTDError, UsageError

SCRIPT = Path(sys.executable).with_name("rtd-plugin")


@pytest.fixture
def failing(monkeypatch):
    """Makes `rtd-plugin adapters` fail with an error."""

    def failing(error: BaseException) -> None:
        @click.command()
        def command():
            raise error

        monkeypatch.setattr(main, "get_command", lambda ctx, name: command)

    return failing


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help_does_not_import_torch(command):
    """Neither the group's help nor a command's waits for torch; plugins are loaded where they may add commands."""
    code = (
        "import sys; from rtd_plugin.cli.main import main\n"
        f"main({[*command, '--help']!r}, standalone_mode=False)\n"
        "print(sorted({'torch', 'open_clip', 'accelerate', 'spacy', 'numpy', 'rtd_adapters'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ("['rtd_adapters']" if command in ((), ("triplets",)) else "[]")
    assert "Example" in done.stdout


@pytest.mark.parametrize("start", [[SCRIPT], [sys.executable, "-m", "rtd_plugin"]], ids=["script", "module"])
def test_two_ways_to_start(start):
    done = subprocess.run([*start, "--help"], capture_output=True, text=True, check=True)
    assert "rtd-plugin train --adapter lincir" in done.stdout
    failed = subprocess.run([*start, "trian"], capture_output=True, text=True)
    assert failed.returncode == 2
    assert "No such command 'trian'" in failed.stderr


def test_help_lists_every_command(rtd):
    shown = rtd("--help").stdout
    assert all(f"  {name} " in shown for name in COMMANDS)


@pytest.mark.parametrize(
    "args", [["--nope"], ["train", "--nope"], ["train", "--debug"], ["export"], ["recipes", "a", "b"]]
)
def test_wrong_usage_is_exit_2(rtd, args):
    done = rtd(*args)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "Usage:" in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (RTDError("the disk is full"), 1, "Error: the disk is full\n"),
        (UsageError("no such recipe"), 2, "Error: no such recipe\n"),
        (OSError(errno.ENOSPC, "No space left on device", b"\xff"), 1, "Error: \\udcff: No space left on device\n"),
        (MemoryError(), 1, "Error: out of memory: use smaller batches or files, or a machine with more memory\n"),
        (KeyError("x"), 1, "Error: unexpected KeyError: 'x' (for a traceback: rtd-plugin --debug …)\n"),
        (KeyboardInterrupt(), 1, "\nAborted!\n"),
        (click.exceptions.Exit(3), 3, ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_are_a_sentence_and_an_exit_code(rtd, failing, error, code, says):
    failing(error)
    done = rtd("adapters")
    assert (done.exit_code, done.stdout, done.stderr) == (code, "", says)


@pytest.mark.parametrize("error", [RTDError, UsageError, KeyError, click.UsageError])
def test_a_long_error_is_shortened(rtd, failing, error):
    """It may quote a file; both ends tell what is wrong."""
    failing(error("first" + 10**5 * "x\n" + "last"))
    shown = rtd("adapters").stderr
    assert len(shown) < 2100
    assert "first" in shown
    assert "characters left out) … " in shown
    assert "last" in shown


def test_a_long_warning_is_shortened(rtd, monkeypatch):
    @click.command()
    def command():
        logging.getLogger("rtd_plugin").warning("x" * 10**5)

    monkeypatch.setattr(main, "get_command", lambda ctx, name: command)
    shown = rtd("adapters").stderr
    assert "xxx" in shown
    assert len(shown) < 2100


def test_debug_shows_the_traceback(rtd, failing):
    failing(UsageError("no such recipe"))
    done = rtd("--debug", "adapters")
    assert done.exit_code == 2
    assert done.stderr.startswith("Traceback (most recent call last)")
    assert done.stderr.endswith("Error: no such recipe\n")


def test_export_offers_every_layout():
    assert (*layouts.LAYOUTS, "onnx") == LAYOUTS


def test_json_keeps_characters_as_they_are(capsys):
    console.print_json({"recipe": "ψ"})
    assert capsys.readouterr().out == '{\n  "recipe": "ψ"\n}\n'


def test_adapters(rtd):
    assert "lincir" in rtd("adapters").stdout
    listed = json.loads(rtd("adapters", "--json").stdout)["adapters"]
    lincir = next(adapter for adapter in listed if adapter["name"] == "lincir")
    assert lincir["prompt"] == "a photo of $ that {condition}"

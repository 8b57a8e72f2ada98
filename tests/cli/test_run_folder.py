"""The lock of a run's folder, and its model card."""

import os
import re
import signal
import subprocess
import sys

import open_clip
import pytest
import torch
import yaml

import rtd_plugin
from rtd_plugin.clip.tokens import tokenize
from rtd_plugin.errors import RTDError
from rtd_plugin.workflows.folders import lock_folder

HOLD = """
import os, sys
from pathlib import Path
from rtd_plugin.workflows.folders import lock_folder
with lock_folder(Path("run")):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of the folder `run`."""
    (tmp_path / "run").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_one_process_at_a_time_trains_a_run(rtd, files, holder, tmp_path):
    done = rtd("train", "--recipe", files / "tiny.yaml", "--output", "run")
    assert done.exit_code == 1
    assert done.stderr == f"Error: run: another process trains this run (pid {holder.pid})\n"
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".lock", ".lock.pid"]


def test_a_process_that_is_killed_leaves_no_lock(rtd, files, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    done = rtd("train", "--recipe", files / "tiny.yaml", "--set", "steps=1", "--output", "run")
    assert done.exit_code == 0, done.stderr


def test_a_folder_that_stays_empty_is_removed(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(RTDError, match="another process"), lock_folder(folder), lock_folder(folder):
        pass
    assert not folder.exists()


def read_card(folder):
    text = (folder / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def test_the_model_card_says_what_the_run_was(finished_run, files):
    head, body = read_card(finished_run)
    assert head["library_name"] == "rtd-plugin"
    assert head["license"] == "unknown"
    assert "lincir" in head["tags"]
    assert "| training | 6 steps of 4 triplets, learning rate 0.001, fp32 |" in body
    assert "| projection | phi.pt, SHA-256 " in body
    assert "| triplets | json, digest " in body
    assert "Not evaluated by this run" in body
    assert str(files) not in body
    assert not re.search(r"\{\{|\{%|\n\n\n", body)


def test_the_code_of_the_model_card_works_in_three_libraries(rtd, finished_run, files, monkeypatch):
    monkeypatch.chdir(finished_run.parent)
    _, body = read_card(finished_run)
    exports = re.findall(r"`rtd-plugin (export .*)`", body)
    assert len(exports) == 2
    for line in exports:
        assert rtd(*line.replace(" . ", f" {finished_run.name} ").split()).exit_code == 0
    plugin, huggingface, openai = re.findall(r"```python\n(.*?)```", body, re.DOTALL)
    open_clip.add_model_config(files / "model.json")
    openai = openai.replace("CHECKPOINT", str(files / "clip.pt"))
    tokens = torch.nn.functional.pad(tokenize(["a violin in the rain", "!"]), (0, 77))[:, :77]
    features = []
    for code, encode in (
        (plugin.replace('"."', repr(str(finished_run))), lambda names: names["text_encoder"].encode(tokens)),
        (huggingface, lambda names: names["text_encoder"].eval()(input_ids=tokens).text_embeds),
        (openai, lambda names: names["model"].eval().encode_text(tokens)),
    ):
        names = {"rtd_plugin": rtd_plugin}
        exec(code, names)
        with torch.no_grad():
            features.append(encode(names))
    torch.testing.assert_close(features[1], features[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(features[2], features[0], atol=1e-5, rtol=1e-5)


def test_a_folder_that_safetensors_cannot_read_is_refused(rtd, files, tmp_path):
    """A file name of any bytes: safetensors writes there, but does not read."""
    done = rtd("train", "--recipe", files / "tiny.yaml", "--output", os.fsdecode(b"run \xff"))
    assert done.exit_code == 2
    assert done.stderr == (
        r"Error: run \udcff: a run's folder needs a name in UTF-8, for safetensors: pass another --output" + "\n"
    )
    assert list(tmp_path.iterdir()) == []

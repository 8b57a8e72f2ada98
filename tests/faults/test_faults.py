"""The short form of each program of this folder."""

import re
import subprocess
import sys
from pathlib import Path

import precision
import pytest
import soak
import torch
from accelerate import Accelerator
from hostile_hosts import Trials
from injection import is_supported
from safetensors.torch import save_file

from rtd_plugin.cache import read_record
from rtd_plugin.clip.artifact import read_info
from rtd_plugin.contract.plugins import find_adapter
from rtd_plugin.errors import RTDError
from rtd_plugin.generation.llm.answers import AnswerFile
from rtd_plugin.patching.bootstrap import start as start_patch
from rtd_plugin.patching.manifest import read_manifest
from rtd_plugin.patching.usage_log import read_events
from rtd_plugin.training.metrics import MetricsLog

needs_injection = pytest.mark.skipif(not is_supported(), reason="injects faults on Linux on x86-64 with gcc only")


def run_program(name: str, *options: str) -> str:
    """Return the last line of a program of this folder, which has to end well.

    In a process of its own: what has computed gradients, as other tests have, cannot be forked to compute more.
    """
    program = Path(__file__).with_name(name)
    done = subprocess.run([sys.executable, str(program), *options, "--jobs", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


def count_faults(name: str, scenarios: str, *options: str) -> int:
    """Run a few trials of scenarios; return the number of faults."""
    summary = run_program(name, "--scenarios", scenarios, *options)
    return int(re.match(r"([\d,]+) faults, 0 problems", summary)[1].replace(",", ""))


@needs_injection
@pytest.mark.slow
def test_a_command_that_was_killed_can_be_repeated():
    assert count_faults("kills.py", "patch-again,export-openai", "--every", "9", "--second", "2") > 9


@needs_injection
@pytest.mark.slow
def test_a_command_on_a_failing_disk_leaves_nothing_half_written():
    assert count_faults("full_disk.py", "patch-again,export-openai", "--every", "9") > 9


@needs_injection
@pytest.mark.slow
def test_other_commands_survive_kills():
    names = "train-resume,evaluate,triplets-rules,triplets-llm,search,index-faiss"
    assert count_faults("kills.py", names, "--every", "25", "--second", "1") > 20


@needs_injection
@pytest.mark.slow
def test_other_commands_survive_a_failing_disk():
    names = "train-resume,evaluate,triplets-rules,search"
    assert count_faults("full_disk.py", names, "--every", "40") > 20


@pytest.mark.parametrize(
    "read",
    [
        lambda path: read_record(path) is None,
        lambda path: AnswerFile(path).__exit__(None, None, None) is None,
        lambda path: read_events(str(path)) == [],
        lambda path: MetricsLog(path, 1, Accelerator()).path.read_text() == "",
    ],
    ids=["cache", "answers", "usage log", "metrics"],
)
def test_deep_json_counts_as_damaged(tmp_path, read):
    (tmp_path / "file").write_text("[" * 100_000)
    assert read(tmp_path / "file")


@pytest.mark.parametrize("read", [read_manifest, start_patch])
def test_a_manifest_of_deep_json_is_an_error(tmp_path, read):
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(RTDError, match="not a readable manifest"):
        read(str(tmp_path))


def test_metadata_of_deep_json_is_an_error(tmp_path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "a.safetensors", {"format": "[" * 100_000})
    with pytest.raises(RTDError, match="metadata is not that of a text encoder"):
        read_info(tmp_path / "a.safetensors")


@needs_injection
@pytest.mark.slow
def test_mutated_files_are_read_or_refused():
    readers = "recipe,manifest,triplets-lines,picture-a.png"
    assert run_program("fuzz.py", "--readers", readers, "--examples", "15") == "60 inputs, 0 failures"


def test_patch_runs_no_code_of_a_hostile_host(tmp_path):
    trials = Trials(tmp_path)
    for name in ("exit", "start files", "links", "pipe as point", "names", "deep parentheses"):
        trials.try_host(name, ("patch",))
    assert trials.problems == []
    assert trials.count == 6


@pytest.mark.slow
@pytest.mark.parametrize("name", precision.ADAPTERS)
def test_errors_of_half_precision_are_bounded(name):
    dtypes = (torch.float32, torch.bfloat16)
    errors = precision.measure(find_adapter(name), "tiny", 8, 0, dtypes)
    for dtype in dtypes:
        assert all(0 < error <= bound for error, bound in zip(errors[dtype], precision.BOUNDS[dtype], strict=True))


@pytest.mark.slow
def test_training_in_half_precision_reaches_the_recall_of_fp32():
    recall = precision.compare_training(0, "steps=60", "triplets.0.count=4000", "wording={}")
    assert recall["fp32"] != recall["bf16"]
    for full, half in zip(recall["fp32"], recall["bf16"], strict=True):
        assert abs(full - half) <= precision.RECALL_BOUND


@pytest.mark.slow
def test_a_long_run_opens_no_files(tmp_path):
    windows = soak.soak(steps=40, batch_size=4, every=10, folder=tmp_path / "run")
    growth = soak.compute_growth(windows)
    assert [window.step for window in windows] == [10, 20, 30, 40]
    assert growth["open_files"] == growth["threads"] == 0
    assert growth["objects"] <= soak.BOUNDS["objects"]

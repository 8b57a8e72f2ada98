"""Bad input of a run gives an error message and exit code 1 or 2, and leaves nothing half-written."""

import os
import pickle
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from rtd_adapters.phi import Phi
from safetensors.torch import load_file


class RunsCode:
    """Makes a folder `ran` when it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, ("ran",))


def truncate(source: Path) -> None:
    content = source.read_bytes()
    Path("broken.pt").write_bytes(content[: len(content) // 2])


def broken_line(source: Path) -> None:
    lines = source.read_text().splitlines() * 30
    lines[999] = '{"caption": "a pear", "edit": '
    Path("broken.jsonl").write_text("\n".join(lines))


CASES = {
    "no backbone": (None, "backbone.checkpoint=none.pt", 1, "none.pt: no such file or folder"),
    "no projection": (None, "projection=none.pt", 1, "none.pt: no such file"),
    "no triplets": (None, "triplets.0.path=none.jsonl", 1, "none.jsonl: No such file or directory"),
    "projection is a folder": (None, "projection=.", 1, "a folder, not a checkpoint file"),
    "truncated backbone": (
        lambda files: truncate(files / "clip.pt"),
        "backbone.checkpoint=broken.pt",
        1,
        "broken.pt: not a checkpoint, or a broken or truncated one",
    ),
    "truncated projection": (
        lambda files: truncate(files / "phi.pt"),
        "projection=broken.pt",
        1,
        "broken.pt: not a checkpoint, or a broken or truncated one",
    ),
    "code in torch.save": (
        lambda files: torch.save({"Phi": RunsCode()}, "code.pt"),
        "projection=code.pt",
        1,
        "code.pt: holds pickled objects other than tensors",
    ),
    "code in a pickle": (
        lambda files: Path("code.pt").write_bytes(pickle.dumps(RunsCode())),
        "backbone.checkpoint=code.pt",
        1,
        "code.pt: holds pickled objects other than tensors",
    ),
    "wrong width": (
        lambda files: torch.save({"Phi": Phi(64, 32).state_dict()}, "narrow.pt"),
        "projection=narrow.pt",
        1,
        "narrow.pt: layers.6.weight has shape (32, 256), but a backbone with features of size 64",
    ),
    "broken line": (
        lambda files: broken_line(files / "triplets.jsonl"),
        "triplets.0.path=broken.jsonl",
        1,
        "broken.jsonl, record 1,000 (line 1,000): broken JSON",
    ),
    "fp16 on a CPU": (None, "precision=fp16", 1, "precision fp16 needs a GPU"),
    "too large a batch": (None, "batch_size=64", 1, "48 triplets do not fill one batch of 64"),
    "unknown key": (None, "objective.temprature=1", 2, "--set objective.temprature: no such key"),
    "wrong value": (None, "steps=many", 2, "--set steps: "),
    "unknown adapter": (None, "adapter=lincri", 2, "unknown adapter 'lincri': installed are"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_values(rtd, files, tmp_path, case):
    prepare, override, code, says = CASES[case]
    if prepare:
        prepare(files)
    before = set(tmp_path.iterdir())
    done = rtd("train", "--recipe", files / "tiny.yaml", "--set", override, "--output", "run", "--json")
    assert done.exit_code == code, done.stderr
    assert done.stdout == ""
    *progress, error = done.stderr.splitlines()
    assert error.startswith("Error: ")
    assert progress in ([], ["Tokenising triplets 48/48"])
    assert says in done.stderr
    assert set(tmp_path.iterdir()) == before


def recipe_with_unknown_key(files):
    Path("bad.yaml").write_text((files / "tiny.yaml").read_text() + "stepz: 3\n")


RECIPES = {
    "no recipe": (None, ["--recipe", "none.yaml"], "none.yaml: no such recipe file"),
    "no such name": (None, ["--recipe", "none"], "unknown recipe 'none'"),
    "a folder": (lambda files: Path("bad.yaml").mkdir(), ["--recipe", "bad.yaml"], "bad.yaml: no such recipe file"),
    "binary": (
        lambda files: Path("bad.yaml").write_bytes(bytes(range(256))),
        ["--recipe", "bad.yaml"],
        "bad.yaml: not a text in UTF-8",
    ),
    "not YAML": (lambda files: Path("bad.yaml").write_text("a: [1"), ["--recipe", "bad.yaml"], "line 1: not YAML"),
    "a list": (lambda files: Path("bad.yaml").write_text("- 1"), ["--recipe", "bad.yaml"], "not a recipe"),
    "empty": (lambda files: Path("bad.yaml").touch(), ["--recipe", "bad.yaml"], "not a recipe"),
    "unknown key": (recipe_with_unknown_key, ["--recipe", "bad.yaml"], ": stepz: no such key"),
    "unknown adapter": (None, ["--adapter", "lincri"], "unknown adapter 'lincri': installed are lincir"),
    "neither": (None, [], "pass --adapter NAME"),
    "no value": (None, ["--recipe", "TINY", "--set", "steps"], "--set steps: expected key=value"),
}


@pytest.mark.parametrize("case", RECIPES)
def test_bad_recipes(rtd, files, tmp_path, case):
    prepare, args, says = RECIPES[case]
    if prepare:
        prepare(files)
    before = set(tmp_path.iterdir())
    done = rtd("train", *(files / "tiny.yaml" if arg == "TINY" else arg for arg in args), "--output", "run")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert set(tmp_path.iterdir()) == before


def test_output_is_a_file(rtd, files, tmp_path):
    (tmp_path / "notes").write_text("mine")
    for output in ("notes", "notes/run"):
        done = rtd("train", "--recipe", files / "tiny.yaml", "--output", output)
        assert done.exit_code == 1
        assert done.stderr.startswith(f"Error: {output}: cannot be made (")
        assert done.stderr.endswith("): pass another --output\n")
    assert (tmp_path / "notes").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_output_cannot_be_written(rtd, files, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    done = rtd("train", "--recipe", files / "tiny.yaml", "--output", "locked/run")
    assert (done.exit_code, done.stderr) == (
        1,
        "Error: locked/run: cannot be made (Permission denied): pass another --output\n",
    )


def test_output_on_a_read_only_file_system(rtd, files):
    done = rtd("train", "--recipe", files / "tiny.yaml", "--output", "/proc/run")
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: /proc/run: cannot be made (")


@pytest.fixture
def small_disk(tmp_path, finished_run):
    """A file system with room for two checkpoints and a half."""
    folder = tmp_path / "small"
    folder.mkdir()
    checkpoint = sum(path.stat().st_size for path in (finished_run / "checkpoints" / "step-000006").iterdir())
    size = f"size={int(2.5 * checkpoint)}"
    if not shutil.which("mount") or subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder]).returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_full_disk(rtd, files, finished_run, small_disk):
    """Earlier checkpoints are intact: with more space the run continues."""
    run = small_disk / "run"
    done = rtd("train", "--recipe", files / "tiny.yaml", "--output", run, "--set", "checkpoints.keep=9")
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].startswith(f"Error: {run}/checkpoints/step-000006: cannot be written (")
    names = sorted(path.name for path in run.rglob("*"))
    assert "step-000004" in names
    assert not any(name.startswith((".", "step-000006", "text_encoder")) for name in names)
    subprocess.run(["mount", "-o", "remount,size=400m", small_disk], check=True)
    assert rtd("train", "--resume", "--output", run).exit_code == 0
    one, other = (load_file(folder / "text_encoder.safetensors") for folder in (run, finished_run))
    assert all(one[name].equal(other[name]) for name in one)


def test_file_too_large(start, files, tmp_path):
    """Like a full disk, for a single file and without root."""
    process = start("train", "--recipe", files / "tiny.yaml", "--output", "run", largest_file=10_000_000)
    process.join()
    said = (tmp_path / "output.txt").read_text()
    assert process.exitcode == 1, said
    assert said.splitlines()[-1].startswith("Error: run/checkpoints/step-000002: cannot be written (")
    assert "Traceback" not in said
    assert list((tmp_path / "run/checkpoints").iterdir()) == []


@pytest.mark.parametrize("use", ["backbone.checkpoint", "projection", "patch", "optimizer"])
def test_a_torchscript_archive_runs_nothing(rtd, files, hostile, tmp_path, use):
    """Its `__setstate__` would overwrite the victim, wherever a checkpoint is read."""
    archive, victim = hostile
    victim.write_bytes(bytes(64))
    if use == "patch":
        shutil.copytree(Path(__file__).parents[1] / "patching/hosts/lincir", tmp_path / "code")
        done = rtd("patch", "code", "--weights", archive)
    elif use == "optimizer":
        assert rtd("train", "--recipe", files / "tiny.yaml", "--set", "steps=2", "--output", "run").exit_code == 0
        (optimizer,) = Path("run").glob("checkpoints/*/optimizer.pt")
        shutil.copy(archive, optimizer)
        done = rtd("train", "--recipe", files / "tiny.yaml", "--set", "steps=2", "--output", "run", "--resume")
    else:
        done = rtd("train", "--recipe", files / "tiny.yaml", "--set", f"{use}={archive}", "--output", "run")
    assert victim.read_bytes() == bytes(64)
    assert done.exit_code == 1, done.output
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert "holds pickled objects other than tensors" in done.stderr.splitlines()[-1]

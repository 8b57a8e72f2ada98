"""`rtd-plugin train`: the run's folder, resuming, and the choice of the run."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from rtd_plugin import hookimpl
from rtd_plugin.contract import plugins
from rtd_plugin.workflows import runs
from rtd_plugin.workflows.folders import make_folder


def losses(run) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines]


def same_weights(one, other) -> bool:
    one, other = (load_file(run / "text_encoder.safetensors") for run in (one, other))
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def test_a_run_writes_its_folder(finished_run, files):
    assert sorted(path.name for path in finished_run.iterdir()) == [
        "README.md",
        "checkpoints",
        "metrics.jsonl",
        "recipe.yaml",
        "results.json",
        "text_encoder.safetensors",
    ]
    recipe = yaml.safe_load((finished_run / "recipe.yaml").read_text())
    assert recipe["projection"] == str(files / "phi.pt")
    assert recipe["objective"]["temperature"] == 0.07
    assert [step for step, _ in losses(finished_run)] == [1, 2, 3, 4, 5, 6]
    assert losses(finished_run)[-1][1] < losses(finished_run)[0][1]
    assert sorted(path.name for path in (finished_run / "checkpoints").iterdir()) == ["step-000004", "step-000006"]
    results = json.loads((finished_run / "results.json").read_text())
    assert results.pop("seconds") > 0
    assert results == {
        "run": str(finished_run),
        "text_encoder": str(finished_run / "text_encoder.safetensors"),
        "adapter": "lincir",
        "step": 6,
        "triplets": 48,
        "skipped": 0,
        "validation": None,
        "evaluation": None,
        "search": None,
        "verdict": None,
        "warning": None,
        "remarks": [],
        "report": None,
    }


def test_hook_rtd_run_ended(rtd, files, tmp_path):
    came = []

    class Ends:
        @hookimpl
        def rtd_run_ended(self, run, results):
            assert run.text_encoder.is_file()
            came.append((json.loads((run.folder / "results.json").read_text()), results))

    with plugins.use_plugins(Ends()):
        rtd("train", "--recipe", files / "tiny.yaml", "--set", "steps=1", "--output", "run")
    ((written, results),) = came
    assert results == written
    assert results["step"] == 1


def test_default_folder_is_named_after_the_recipe(rtd, files, tmp_path):
    short = ("--recipe", files / "tiny.yaml", "--set", "steps=1")
    first = rtd("train", *short)
    assert first.stdout == (
        "Wrote runs/tiny/text_encoder.safetensors (step 1).\n"
        "\n"
        "Next:\n"
        "  rtd-plugin evaluate --benchmark cirr --data path/to/CIRR --weights runs/tiny\n"
        "  rtd-plugin patch path/to/your/code --weights runs/tiny\n"
        "  rtd-plugin export runs/tiny --layout huggingface text_encoder\n"
        "  python -c 'import rtd_plugin; rtd_plugin.load_text_encoder(\"runs/tiny\")'\n"
    )
    assert first.stderr.splitlines()[-1].startswith("Training 1/1 loss ")
    second = rtd("train", *short, "--json")
    assert json.loads(second.stdout)["run"] == "runs/tiny-2"
    assert json.loads(second.stdout) == json.loads((tmp_path / "runs/tiny-2/results.json").read_text())


def test_the_printed_commands_work(rtd, files, tmp_path):
    """Brackets and blanks in a path are neither markup nor two words."""
    done = rtd("train", "--recipe", files / "tiny.yaml", "--set", "steps=1", "--output", "my [old] runs/a")
    assert "Wrote my [old] runs/a/text_encoder.safetensors" in done.stdout
    export, python = (shlex.split(line) for line in done.stdout.splitlines()[-2:])
    assert rtd(*export[1:]).exit_code == 0
    assert (tmp_path / "text_encoder/model.safetensors").is_file()
    assert python[:2] == ["python", "-c"]
    exec(python[2], {})


def test_simultaneous_runs_get_separate_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: make_folder(None, runs.RUNS, "tiny"), range(20)))
    assert len(set(folders)) == 20
    assert all(folder.is_dir() for folder in folders)


def test_an_existing_run_needs_resume(rtd, files, finished_run):
    before = (finished_run / "recipe.yaml").stat().st_mtime_ns
    done = rtd("train", "--recipe", files / "tiny.yaml", "--output", finished_run)
    assert done.exit_code == 2
    assert done.stderr == (
        f"Error: {finished_run}: already holds a run: pass --resume to continue it, or another --output\n"
    )
    assert (finished_run / "recipe.yaml").stat().st_mtime_ns == before


def test_resume_without_a_run_starts_one_with_a_message(rtd, files):
    done = rtd("train", "--recipe", files / "tiny.yaml", "--set", "steps=1", "--resume")
    assert done.exit_code == 0
    assert done.stderr.startswith("No run to resume: starting a new one.\n")
    assert "runs/tiny/" in done.stdout


@pytest.mark.parametrize("where", [(), ("--output", "elsewhere")])
def test_resume_without_run_and_recipe_is_refused(rtd, where):
    done = rtd("train", "--resume", *where)
    assert done.exit_code == 2
    assert "no run to resume: pass --adapter NAME" in done.stderr


def test_resume_of_a_finished_run_changes_nothing(rtd, files, finished_run):
    rtd("train", "--recipe", files / "tiny.yaml")
    again = rtd("train", "--recipe", files / "tiny.yaml", "--resume", "--json")
    assert again.stderr == "Resuming runs/tiny.\n"
    assert json.loads(again.stdout)["step"] == 6
    run = runs.RUNS / "tiny"
    assert losses(run) == losses(finished_run)
    assert same_weights(run, finished_run)


def test_resume_extends_a_run(rtd, files, finished_run):
    rtd("train", "--recipe", files / "tiny.yaml", "--set", "steps=3", "--output", "part")
    done = rtd("train", "--resume", "--output", "part", "--set", "steps=6")
    assert done.exit_code == 0, done.stderr
    resumed = Path("part")
    assert losses(resumed) == losses(finished_run)
    assert same_weights(resumed, finished_run)


@pytest.mark.parametrize("override", ["batch_size=8", "seed=3", "objective.temperature=1"])
def test_resume_refuses_overrides_that_change_the_run(rtd, finished_run, override):
    done = rtd("train", "--resume", "--output", finished_run, "--set", override)
    assert done.exit_code == 2
    assert f"cannot resume with another {override.split('=')[0].split('.')[0]}" in done.stderr


def test_resume_refuses_fewer_steps_than_were_taken(rtd, finished_run):
    before = (finished_run / "recipe.yaml").read_bytes()
    done = rtd("train", "--resume", "--output", finished_run, "--set", "steps=1")
    assert done.exit_code == 2
    assert "already took 6 steps, so it cannot resume with steps=1" in done.stderr
    assert (finished_run / "recipe.yaml").read_bytes() == before


def test_resume_chooses_the_newest_run_of_the_recipe(tmp_path, monkeypatch):
    """Not a run of another recipe whose name only starts the same."""
    monkeypatch.chdir(tmp_path)
    names = ["tiny", "tiny-3", "tiny-2", "tiny-xl", "tiny-2b", "huge"]
    for age, name in enumerate(names):
        recipe = tmp_path / "runs" / name / "recipe.yaml"
        recipe.parent.mkdir(parents=True)
        recipe.touch()
        os.utime(recipe, (age, age))
    (tmp_path / "runs/tiny-4").mkdir()
    assert runs.find_newest_run("tiny").name == "tiny-2"
    assert runs.find_newest_run("tiny-xl").name == "tiny-xl"
    assert runs.find_newest_run(None).name == "huge"
    assert runs.find_newest_run("none") is None


def test_checkpoints_of_an_unknown_run_are_left_alone(rtd, files, tmp_path):
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    done = rtd("train", "--recipe", files / "tiny.yaml", "--output", "run")
    assert done.exit_code == 2
    assert "run: holds checkpoints without their recipe.yaml" in done.stderr


def test_names_of_recipes_may_have_dots():
    assert runs.name_run("lincir-1.5", None) == "lincir-1.5"
    assert runs.name_run("mine/lincir-1.5.yaml", None) == "lincir-1.5"


def test_an_adapter_without_miniature_needs_a_recipe(rtd, monkeypatch):
    monkeypatch.setattr(runs.plugins, "list_recipes", dict)
    done = rtd("train", "--adapter", "lincir")
    assert done.exit_code == 2
    assert done.stderr == "Error: no plugin has a miniature for lincir: pass --recipe NAME|FILE\n"


def test_left_out_records_are_counted(rtd, files, tmp_path):
    """Among all records, also if an epoch has fewer triplets."""
    lines = (files / "triplets.jsonl").read_text().splitlines()
    (tmp_path / "some.jsonl").write_text(
        "\n".join([*lines[:20], '{"caption": "a pear"}', "{", *lines[20:], *lines[:10]])
    )
    broken = ("--set", "triplets.0.path=some.jsonl", "--set", "triplets.0.skip_invalid=true", "--set", "steps=1")
    broken += ("--set", "wording.sample=true")
    done = rtd("train", "--recipe", files / "tiny.yaml", *broken, "--json")
    assert "\nLeft out 2 broken of 60 records.\n" in done.stderr
    results = json.loads(done.stdout)
    assert (results["skipped"], results["triplets"]) == (2, 48)


@pytest.mark.slow
def test_torchrun(files, tmp_path):
    """Two processes on the CPU, of which one writes and prints."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = ["-m", "rtd_plugin", "train", "--json", "--recipe", files / "tiny.yaml", "--set", "steps=2"]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*torchrun, *command], cwd=tmp_path, env=one_thread, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == "runs/tiny"
    assert done.stderr.count("Training 2/2") == 1
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["tiny"]
    assert [step for step, _ in losses(tmp_path / "runs/tiny")] == [1, 2]


@pytest.mark.slow
def test_two_processes_resume(start, files, tmp_path, finished_run):
    """Killed processes, started as torchrun does it, continue; a single one takes the same steps."""

    def both(*args, signal_at=None):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        main, helper = (shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01")
        return [
            start("train", *args, environment=main, signal_at=signal_at),
            start("train", *args, environment=helper),
        ]

    def codes(processes):
        for process in processes:
            process.join()
        return [process.exitcode for process in processes]

    recipe = ("--recipe", files / "tiny.yaml", "--set", "steps=3", "--set", "checkpoints.every=1")
    assert codes(both(*recipe, "--output", "whole")) == [0, 0]
    main, helper = both(*recipe, "--output", "part", signal_at=("os.mkdir", ".step-000002", signal.SIGKILL))
    assert codes([main]) == [-signal.SIGKILL]
    helper.kill()
    codes([helper])
    assert [path.name for path in (tmp_path / "part/checkpoints").glob("step-*")] == ["step-000001"]
    shutil.copytree(tmp_path / "part", tmp_path / "alone")
    assert codes([start("train", "--resume", "--output", "alone")]) == [0]
    alone, whole = (dict(losses(tmp_path / name)) for name in ("alone", "whole"))
    assert alone == pytest.approx(whole, rel=1e-4)
    assert codes(both("--resume", "--output", "part")) == [0, 0]
    assert losses(tmp_path / "part") == losses(tmp_path / "whole") != losses(finished_run)[:3]
    assert same_weights(tmp_path / "part", tmp_path / "whole")

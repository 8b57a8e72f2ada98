"""A tiny CLIP with its projection module, triplets and a recipe, and processes that run the command line."""

import itertools
import json
import multiprocessing
import os
import resource
import sys
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

import open_clip
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from rtd_adapters.phi import Phi

from rtd_plugin.cli.main import main

WIDTH = 64
MODEL = {
    "embed_dim": WIDTH,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": WIDTH, "heads": 2, "layers": 2},
}
THINGS = ("kettle", "ladder", "violin", "turtle", "lantern", "bicycle", "pear", "harbour")
PLACES = ("on a shelf", "in the rain", "at night", "under a bridge", "in a crowd", "by a fence")


@pytest.fixture(scope="session")
def files(tmp_path_factory, randomise) -> Path:
    """A folder with model.json, clip.pt, phi.pt, triplets.jsonl and tiny.yaml, a recipe of 6 steps without images."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "model.json").write_text(json.dumps(MODEL))
    torch.save(randomise(open_clip.CLIP(**MODEL)).state_dict(), folder / "clip.pt")
    torch.save({"epoch": 1, "Phi": randomise(Phi(WIDTH, WIDTH)).state_dict()}, folder / "phi.pt")
    triplets = [
        {"caption": f"a {thing} {place}", "edit": f"make it a {other}", "output": f"a {other} {place}"}
        for thing, other in zip(THINGS, reversed(THINGS), strict=True)
        for place in PLACES
    ]
    (folder / "triplets.jsonl").write_text("".join(json.dumps(triplet) + "\n" for triplet in triplets))
    recipe = {
        "adapter": "lincir",
        "backbone": {"model": "model.json", "checkpoint": "clip.pt"},
        "projection": "phi.pt",
        "triplets": [{"source": "json", "path": "triplets.jsonl"}],
        "optimizer": {"learning_rate": 1e-3},
        "steps": 6,
        "batch_size": 4,
        "precision": "fp32",
        "checkpoints": {"every": 2},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    return folder


@pytest.fixture
def rtd(tmp_path, monkeypatch) -> Callable[..., Result]:
    """Runs the command line in this process, in the test's own folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *args: CliRunner().invoke(main, list(map(str, args)))


@pytest.fixture(scope="session")
def finished_run(files, tmp_path_factory) -> Path:
    """The folder of an undisturbed run of tiny.yaml; do not write to it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    done = CliRunner().invoke(main, ["train", "--recipe", str(files / "tiny.yaml"), "--output", str(folder)])
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture(scope="session")
def processes():
    """A server that has imported what commands need and forks, so a new process starts without imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["rtd_plugin.cli.train", "rtd_plugin.workflows.train", "rtd_adapters.lincir", "open_clip", "accelerate"]
    )
    return context


@pytest.fixture
def start(processes, tmp_path, monkeypatch) -> Iterator[Callable[..., BaseProcess]]:
    """Starts the command line in another process; its output goes to `output.txt` in the test's folder.

    With `signal_at=(event, text, number)` the process sends itself a signal at the first audit event of that name (see
    `sys.addaudithook`) with the text in one of its arguments: a moment that does not depend on the machine's load. An
    integer instead of the text means the event of that index, of any name for `event` None.
    """
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # the process imports this module by its name

    started = []

    def start(
        *args: object,
        environment: Mapping[str, str] | None = None,
        largest_file: int | None = None,
        signal_at: tuple[str | None, str | int, int] | None = None,
    ) -> BaseProcess:
        values = (list(map(str, args)), tmp_path, environment or {}, largest_file, signal_at)
        process = processes.Process(target=_run, args=values)
        process.start()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


def _signal_at(event: str | None, moment: str | int, number: int) -> None:
    indices = itertools.count()

    def hook(name: str, arguments: tuple[object, ...]) -> None:
        if event not in (name, None):
            return
        is_moment = next(indices) == moment if isinstance(moment, int) else any(moment in str(a) for a in arguments)
        if is_moment:
            os.kill(os.getpid(), number)

    sys.addaudithook(hook)


def _run(
    args: list[str],
    folder: Path,
    environment: Mapping[str, str],
    largest_file: int | None,
    signal_at: tuple[str | None, str | int, int] | None,
) -> None:
    os.chdir(folder)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    os.environ.update(environment)
    torch.set_num_threads(1)
    output = (folder / "output.txt").open("w")
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    sys.stdout = sys.stderr = output
    if signal_at is not None:
        _signal_at(*signal_at)
    main(args)


@pytest.fixture(scope="session")
def setup(files):
    """The options that name the tiny CLIP and its projection."""
    return (
        *("--adapter", "lincir", "--model", files / "model.json"),
        *("--checkpoint", files / "clip.pt", "--projection", files / "phi.pt"),
    )


@pytest.fixture
def evaluate(rtd, setup, write_dataset, tmp_path):
    """Runs the command on a small benchmark; returns what it printed as JSON."""

    def evaluate(name, *options, fails=False):
        if not (tmp_path / name).exists():
            write_dataset(name, tmp_path / name)
        done = rtd("evaluate", *setup, "--benchmark", name, "--data", name, "--cache", "cache", "--json", *options)
        if fails:
            return done
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    return evaluate

"""A small run in temporary files: a text tower of two layers, a projection, and triplets about everyday images."""

import json
import multiprocessing
import runpy
from itertools import chain
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from pydantic import field_validator
from rtd_adapters.lincir import LinCIR
from rtd_adapters.phi import Phi
from safetensors.torch import save_file
from token_triplets import tokenise_triplet

from rtd_plugin.clip.tower import TextTower
from rtd_plugin.contract import plugins
from rtd_plugin.contract.markers import hookimpl
from rtd_plugin.engine.build import build_engine
from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation.benchmark import Benchmark
from rtd_plugin.paths import RecipePath
from rtd_plugin.training.loop import make_accelerator, train
from rtd_plugin.training.metrics import METRICS_FILE
from rtd_plugin.training.recipe import read_recipe
from rtd_plugin.training.run import load_run
from rtd_plugin.triplets.ragged import Ragged
from rtd_plugin.triplets.token_store import TokenBatch
from rtd_plugin.triplets.triplet import Triplet

FEATURES, WIDTH = 32, 16
THINGS = (
    "a brown dog",
    "two children",
    "an old bicycle",
    "a bowl of soup",
    "a sailing boat",
    "a <PERSON> with an umbrella",
)
PLACES = ("on a beach", "in front of a red barn", "next to a window", "under a tree, in the rain", "at night")
CHANGES = (
    ("is seen from above", "seen from above"),
    ("has a blue sky behind it, costs $5, and is twice as large", "with a blue sky"),
    ("is in black and white", "in black and white"),
    ("has more people", "among many people"),
)


class Shelf(Benchmark):
    """A benchmark with options; this one is never run."""

    name: ClassVar[str] = "shelf"
    excludes_reference: ClassVar[bool] = True

    data: RecipePath
    books: int = 3

    @field_validator("books")
    @classmethod
    def _some(cls, books):
        if books < 0:
            raise RTDError("a shelf cannot hold less than nothing")
        return books

    def queries(self): ...
    def gallery(self): ...
    def image(self, name): ...


class Plugin:
    @hookimpl
    def rtd_benchmarks(self):
        return [Shelf]


@pytest.fixture(autouse=True)
def shelf():
    plugins.get_plugin_manager().register(plugin := Plugin(), "shelf")
    yield
    plugins.get_plugin_manager().unregister(plugin)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def triplets():
    return [
        Triplet(f"{thing} {place}", change, f"{thing} {place} {result}")
        for thing in THINGS
        for place in PLACES
        for change, result in CHANGES
    ]


@pytest.fixture(scope="session")
def adapter():
    return LinCIR()


@pytest.fixture(scope="session")
def tokenise_batch():
    """Tokenise triplets as a token store does."""

    def tokenise_batch(triplets, prompt):
        rows = [tokenise_triplet(triplet, prompt) for triplet in triplets]
        columns = zip(*rows, strict=True)
        texts = (Ragged(np.array([*chain(*column)], np.uint16), np.array([*map(len, column)])) for column in columns)
        return TokenBatch(*texts, np.arange(2 * len(rows)).reshape(-1, 2))

    return tokenise_batch


@pytest.fixture
def tower():
    """A fresh text tower, with weights large enough that no gradient is lost in rounding."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tower = TextTower(width=WIDTH, layers=2, heads=2, features=FEATURES, activation="gelu")
        torch.nn.init.normal_(tower.token_embedding.weight, std=0.5)
        torch.nn.init.normal_(tower.positional_embedding, std=0.2)
    return tower


@pytest.fixture
def projection():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Phi(FEATURES, WIDTH).eval().requires_grad_(False)


@pytest.fixture
def recipe_file(tmp_path, tower, projection, triplets):
    """A recipe of six steps, with its files beside it, and a file with two further wordings of each triplet."""
    save_file(tower.state_dict(), tmp_path / "clip.safetensors")
    torch.save({"epoch": 3, "Phi": projection.state_dict()}, tmp_path / "phi.pt")
    text = {"context_length": 77, "vocab_size": 49408, "width": WIDTH, "heads": 2, "layers": 2}
    (tmp_path / "clip.json").write_text(json.dumps({"embed_dim": FEATURES, "text_cfg": text}))
    wordings = [
        triplet._replace(condition=form.format(triplet.condition))
        for triplet in triplets
        for form in ("{}", "the same, but {}", "now it {}")
    ]
    for name, records in (("triplets.jsonl", triplets), ("wordings.jsonl", wordings)):
        with (tmp_path / name).open("w") as file:
            for triplet in records:
                json.dump({"caption": triplet.reference, "edit": triplet.condition, "output": triplet.target}, file)
                file.write("\n")
    (tmp_path / "recipe.yaml").write_text(
        "adapter: lincir\n"
        "backbone:\n"
        "  model: clip.json\n"
        "  checkpoint: clip.safetensors\n"
        "projection: phi.pt\n"
        "triplets:\n"
        "  - source: json\n"
        "    path: triplets.jsonl\n"
        "optimizer: {learning_rate: 1.0e-3}\n"
        "steps: 6\n"
        "batch_size: 4\n"
        "precision: fp32\n"
        "checkpoints: {every: 2, keep: 2}\n"
    )
    return tmp_path / "recipe.yaml"


@pytest.fixture
def make_run(recipe_file, tmp_path):
    """A loaded run: its folder's name and overrides of the recipe."""
    return lambda name="run", *overrides: load_run(read_recipe(recipe_file, overrides), tmp_path / name)


class Reporting:
    def __init__(self, report):
        self.report = report

    @hookimpl
    def rtd_step_ended(self, report):
        self.report(report)


class Validating:
    def __init__(self, validate):
        self.validate = validate

    @hookimpl
    def rtd_validation_due(self, tower):
        return self.validate(tower)


@pytest.fixture
def train_run(make_run):
    """Train a run by its folder's name and overrides, with functions to be called after steps and to validate."""

    def train_run(name="run", *overrides, report=None, validate=None):
        run = make_run(name, *overrides)
        reporters = ([Reporting(report)] if report else []) + ([Validating(validate)] if validate else [])
        with plugins.use_plugins(*reporters):
            tower, step = train(run, make_accelerator(run.recipe), build_engine)
        return tower.state_dict(), step

    return train_run


@pytest.fixture
def metrics(tmp_path):
    """The lines of a run's metrics, without times."""

    def metrics(name="run"):
        lines = (tmp_path / name / METRICS_FILE).read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if k != "triplets_per_second"} for line in lines]

    return metrics


@pytest.fixture(scope="session")
def same_weights():
    """Whether two state dicts are equal to the last bit."""
    return lambda one, other: one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture(scope="session")
def start():
    """Start a program of this folder in a separate process, with names as its globals."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["rtd_plugin.training.loop", "rtd_adapters.lincir", "open_clip", "accelerate"]
    )  # most of a program's time

    def start(program, **names):
        path = str(Path(__file__).with_name(program))
        process = context.Process(
            target=runpy.run_path, args=(path,), kwargs={"init_globals": names, "run_name": "__main__"}
        )
        process.start()
        return process

    return start

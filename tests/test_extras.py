"""The extras of pyproject.toml left out of a virtual environment, as after `pip install rtd-plugin`."""

import json
import os
import re
import subprocess
import sys
import venv
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, metadata, requires
from pathlib import Path

import pytest
import rtd_adapters
import rtd_recipes
from PIL import Image

import rtd_plugin


def list_packages(extra: str) -> list[str]:
    """Return the packages that an extra installs itself."""
    lines = [line for line in requires("rtd-plugin") if re.search(f"extra == ['\"]{extra}['\"]", line)]
    return [re.match(r"[\w.-]+", line)[0] for line in lines if not line.startswith("rtd-plugin[")]


EXTRAS = [extra for extra in metadata("rtd-plugin").get_all("Provides-Extra") if list_packages(extra)]  # not `all`


def list_entries(package: str) -> set[str]:
    """Return the names in the folder of packages that belong to an installed package."""
    try:
        files = distribution(package).files
    except PackageNotFoundError:
        return set()
    return {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}


def list_left_out(kept: tuple[str, ...]) -> set[str]:
    """Return the names in the folder of packages that belong to extras alone, but for those that are kept."""
    packages = {package for extra in EXTRAS if extra not in kept for package in list_packages(extra)}
    packages -= {package for extra in kept for package in list_packages(extra)}
    return {entry for package in packages for entry in list_entries(package)}


@pytest.fixture(scope="module")
def make_environment(tmp_path_factory):
    """Make a virtual environment with links to all installed packages but those of extras; return its Python."""

    @cache
    def make_environment(kept: tuple[str, ...]) -> Path:
        root = tmp_path_factory.mktemp("environment")
        venv.create(root, with_pip=False, symlinks=True)
        (site_packages,) = root.glob("lib/python*/site-packages")
        left_out = list_left_out(kept)
        installed = [Path(folder) for folder in sys.path if Path(folder).name in ("site-packages", "dist-packages")]
        entries = {
            entry.name: entry for folder in reversed(installed) for entry in folder.iterdir() if entry.suffix != ".pth"
        }
        entries |= {
            package.__name__: Path(package.__file__).parent for package in (rtd_plugin, rtd_adapters, rtd_recipes)
        }
        for name in entries.keys() - left_out:
            (site_packages / name).symlink_to(entries[name])
        return root / "bin" / "python"

    return make_environment


@pytest.fixture
def run_with(make_environment, tmp_path):
    """Run the command line in an environment with no extras but those that are named."""
    (tmp_path / "captions.txt").write_text("A red dog is running on the grass .\n")
    (tmp_path / "t.jsonl").write_text('{"caption": "a red dog", "edit": "is blue", "output": "a blue dog"}\n')
    (tmp_path / "images").mkdir()
    for index, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (32, 32), colour).save(tmp_path / "images" / f"{index}.png")
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables["XDG_CACHE_HOME"] = str(tmp_path / "cache")

    def run_with(kept: tuple[str, ...], *arguments: str, start: tuple[str, ...] = ("-m", "rtd_plugin")):
        command = [make_environment(kept), *start, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)

    return run_with


def needs(purpose: str, package: str, extra: str) -> str:
    return f"Error: {purpose} needs {package}: install it with `pip install 'rtd-plugin[{extra}]'`"


RULES = ["triplets", "build", "rules", "captions.txt", "--output", "out.jsonl"]
TRAIN = ["train", "--adapter", "lincir", "--output", "run", "--set", "steps=1", "--set", "evaluation=null"]
INDEX = ["index", "images", "--recipe", "lincir-miniature", "--output"]
MESSAGES = {  # the extras that a command needs beside it, the command, and what it says
    "train": ((), TRAIN, needs("training", "(accelerate|pyarrow)", "train")),
    "triplets": ((), RULES, needs("building triplets by rules", "(inflect|spacy|en_core_web_sm)", "triplets")),
    "datasets": (
        ("train",),
        [*TRAIN, "--set", "triplets=[{source: datasets, dataset: mine}]"],
        needs("the source `datasets`", "datasets", "datasets"),
    ),
    "index": ((), [*INDEX, "out.lance"], needs("an index in LanceDB", "(lancedb|pyarrow)", "index")),
    "faiss": ((), [*INDEX, "out.faiss"], needs("an index in faiss", "(faiss|pyarrow)", "faiss")),
    "onnx": ((), ["export", "run", "--layout", "onnx", "out"], needs("writing ONNX", "onnx(runtime|script)", "onnx")),
    "serve": ((), ["serve", "--port", "0"], needs("the service", "(fastapi|prometheus_client|uvicorn)", "serve")),
    "ray": (("triplets",), [*RULES, "--ray", "auto"], needs("--ray", "ray", "ray")),
    "test": (
        ("train",),
        [*TRAIN, "--set", "tracker=tensorboard"],
        "Error: the tracker tensorboard is not installed: pip install tensorboard",
    ),
}


def test_every_extra_is_tried():
    # No command uses mkdocs, of docs; open_clip needs huggingface_hub, of hub.
    assert {*MESSAGES, "docs", "hub"} == {*EXTRAS}


@pytest.mark.slow
@pytest.mark.parametrize("extra", MESSAGES)
def test_without_an_extra_a_command_says_how_to_install_it(run_with, tmp_path, extra):
    kept, arguments, message = MESSAGES[extra]
    if extra == "onnx":
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "recipe.yaml").write_text(run_with((), "recipes", "lincir-miniature").stdout)
    done = run_with(kept, *arguments)
    *_, last = done.stderr.strip().splitlines()
    assert re.fullmatch(message.replace("[", r"\[").replace("]", r"\]"), last), done.stderr
    assert done.returncode == 1
    assert not list(tmp_path.glob("out*"))


@pytest.mark.slow
def test_without_any_extra_all_else_works(run_with):
    def run(*arguments, kept=(), **options):
        done = run_with(kept, *arguments, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    names = [name for name in list_left_out(()) if name.isidentifier()]
    assert {"accelerate", "spacy", "lancedb", "faiss", "onnx", "datasets", "material", "pytest", "pyarrow"} <= {*names}
    code = f"from importlib.util import find_spec; print([name for name in {names} if find_spec(name)])"
    assert run(start=("-c", code)) == "[]\n"
    assert "lincir" in run("adapters")
    assert "stats" in run("triplets", "--help")
    assert json.loads(run("triplets", "check", "t.jsonl", "--adapter", "lincir", "--json"))["sound"] == 1
    for arguments, purpose in ((["stats", "t.jsonl"], "reading triplets"), (["check", "t.parquet"], "a Parquet file")):
        done = run_with((), "triplets", *arguments)
        assert (done.returncode, done.stderr.strip()) == (1, needs(purpose, "pyarrow", "train"))
    run(*TRAIN, kept=("train",))
    search = ["search", "images/0.png", "is green", "--images", "images", "--weights", "run", "--json"]
    assert [len(each["images"]) for each in json.loads(run(*search))["results"]] == [2, 2]
    run("export", "run", "--layout", "huggingface", "encoder")
    check = (
        "from rtd_plugin.testing import check_adapter; from rtd_adapters.lincir import LinCIR; check_adapter(LinCIR())"
    )
    run(start=("-c", check))

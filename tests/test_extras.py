"""Each extra of pyproject.toml left out of a virtual environment, as after `pip install rtd-plugin`."""

import json
import os
import re
import subprocess
import sys
import venv
from importlib.metadata import PackageNotFoundError, distribution, metadata, requires
from pathlib import Path

import pytest
import rtd_adapters
import rtd_recipes
from PIL import Image

import rtd_plugin

EXTRAS = tuple(metadata("rtd-plugin").get_all("Provides-Extra"))


def list_packages(extra: str) -> list[str]:
    """Return the packages that an extra installs itself."""
    lines = [line for line in requires("rtd-plugin") if re.search(f"extra == ['\"]{extra}['\"]", line)]
    return [re.match(r"[\w.-]+", line)[0] for line in lines if not line.startswith("rtd-plugin[")]


def list_entries(package: str) -> set[str]:
    """Return the names in the folder of packages that belong to an installed package."""
    try:
        files = distribution(package).files
    except PackageNotFoundError:
        return set()
    return {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}


@pytest.fixture(scope="module")
def make_environment(tmp_path_factory):
    """Make a virtual environment with links to all installed packages but those of extras; return its Python."""

    def make_environment(*extras: str) -> Path:
        root = tmp_path_factory.mktemp("environment")
        venv.create(root, with_pip=False, symlinks=True)
        (site_packages,) = root.glob("lib/python*/site-packages")
        left_out = set().union(*(list_entries(package) for extra in extras for package in list_packages(extra)))
        installed = [Path(folder) for folder in sys.path if Path(folder).name in ("site-packages", "dist-packages")]
        entries = [entry for folder in installed for entry in folder.iterdir() if entry.suffix != ".pth"]
        entries += [Path(package.__file__).parent for package in (rtd_plugin, rtd_adapters, rtd_recipes)]
        names = {"adapters": "rtd_adapters", "recipes": "rtd_recipes"}  # of folders in a checkout
        for entry in entries:
            link = site_packages / (names.get(entry.name, entry.name) if entry.parent not in installed else entry.name)
            if entry.name not in left_out and not link.exists():
                link.symlink_to(entry)
        return root / "bin" / "python"

    return make_environment


@pytest.fixture
def run_without(make_environment, tmp_path):
    """Run the command line in an environment without extras."""
    (tmp_path / "captions.txt").write_text("A red dog is running on the grass .\n")
    (tmp_path / "t.jsonl").write_text('{"caption": "a red dog", "edit": "is blue", "output": "a blue dog"}\n')
    for index, colour in enumerate(("red", "green", "blue")):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), colour).save(tmp_path / "images" / f"{index}.png")
    environments = {}

    def run_without(extras: tuple[str, ...], *arguments: str, start: tuple[str, ...] = ("-m", "rtd_plugin")):
        if extras not in environments:
            environments[extras] = make_environment(*extras)
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        variables["XDG_CACHE_HOME"] = str(tmp_path / "cache")
        return subprocess.run(
            [environments[extras], *start, *arguments],
            cwd=tmp_path,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )

    return run_without


def needs(purpose: str, package: str, extra: str) -> str:
    return f"Error: {purpose} needs {package}: install it with `pip install 'rtd-plugin[{extra}]'`"


RULES = ["triplets", "build", "rules", "captions.txt", "--output", "out.jsonl"]
TRAIN = ["train", "--adapter", "lincir", "--output", "run", "--set", "steps=1", "--set", "evaluation=null"]
INDEX = ["index", "images", "--recipe", "lincir-miniature", "--output"]
MESSAGES = {
    "triplets": (RULES, needs("building triplets by rules", "(inflect|spacy|en_core_web_sm)", "triplets")),
    "datasets": (
        [*TRAIN, "--set", "triplets=[{source: datasets, dataset: mine}]"],
        needs("the source `datasets`", "datasets", "datasets"),
    ),
    "index": ([*INDEX, "out.lance"], needs("an index in LanceDB", "lancedb", "index")),
    "faiss": ([*INDEX, "out.faiss"], needs("an index in faiss", "faiss", "faiss")),
    "onnx": (["export", "run", "--layout", "onnx", "out"], needs("writing ONNX", "(onnxruntime|onnxscript)", "onnx")),
    "test": (
        [*TRAIN, "--set", "tracker=tensorboard"],
        "Error: the tracker tensorboard is not installed: pip install tensorboard",
    ),
}


def test_every_extra_is_tried():
    assert {*MESSAGES, "docs"} == {*EXTRAS}  # docs has mkdocs, which no command uses


@pytest.mark.slow
@pytest.mark.parametrize("extra", MESSAGES)
def test_without_an_extra_a_command_says_how_to_install_it(run_without, tmp_path, extra):
    arguments, message = MESSAGES[extra]
    if extra == "onnx":
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "recipe.yaml").write_text(run_without((extra,), "recipes", "lincir-miniature").stdout)
    done = run_without((extra,), *arguments)
    *_, last = done.stderr.strip().splitlines()
    assert re.fullmatch(message.replace("[", r"\[").replace("]", r"\]"), last), done.stderr
    assert done.returncode == 1
    assert not list(tmp_path.glob("out*"))


@pytest.mark.slow
def test_without_any_extra_all_else_works(run_without):
    def run(*arguments, **options):
        done = run_without(EXTRAS, *arguments, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    modules = sorted({entry for extra in EXTRAS for package in list_packages(extra) for entry in list_entries(package)})
    names = [name for name in modules if name.isidentifier()]
    assert {"spacy", "inflect", "lancedb", "faiss", "onnx", "datasets", "material", "pytest"} <= {*names}
    code = f"from importlib.util import find_spec; print([name for name in {names} if find_spec(name)])"
    assert run(start=("-c", code)) == "[]\n"
    assert "lincir" in run("adapters")
    assert "stats" in run("triplets", "--help")
    assert json.loads(run("triplets", "check", "t.jsonl", "--json"))["sound"] == 1
    run("triplets", "stats", "t.jsonl")
    run(*TRAIN)
    search = ["search", "images/0.png", "is green", "--images", "images", "--weights", "run", "--json"]
    assert len(json.loads(run(*search))["results"]) == 2
    run("export", "run", "--layout", "huggingface", "encoder")
    check = (
        "from rtd_plugin.testing import check_adapter; from rtd_adapters.lincir import LinCIR; check_adapter(LinCIR())"
    )
    run(start=("-c", check))

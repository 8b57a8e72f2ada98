"""The documents: every block of the README runs, every hook is described."""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from rtd_plugin import hookimpl
from rtd_plugin.contract import hookspecs, plugins
from rtd_plugin.contract.plugins import find_recipe
from rtd_plugin.miniature.triplets import MiniatureTriplets
from rtd_plugin.training.recipe import read_recipe

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def find_blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8")) if kind == language]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's commands run as in a clone; its environment is the one of this test."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copytree(ROOT / "tests/patching/hosts/lincir", folder / "path/to/lincir")
    (folder / "catalogue").mkdir()
    for name, color in (("shoe", "blue"), ("boot", "red"), ("sandal", "green")):
        Image.new("RGB", (40, 30), color).save(folder / "catalogue" / f"{name}.png")
    captions = {triplet.reference: None for triplet in MiniatureTriplets(count=80).load().triplets}
    (folder / "captions.txt").write_text("".join(f"{caption}\n" for caption in captions), encoding="utf-8")
    recipe = read_recipe(find_recipe("lincir-miniature"), ["steps=16", "evaluation=null"]).to_dict()
    recipe |= {"triplets": [{"source": "json", "path": "triplets.jsonl"}]}
    (folder / "mine.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return folder


def run_shell(command: str, folder: Path) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_service(program: str, folder: Path) -> None:
    """Run the README's service for one request, on a free port."""
    serve = 'HTTPServer(("localhost", 8000), Search).serve_forever()\n'
    assert program.endswith(serve)
    serve_once = 'server = HTTPServer(("localhost", 0), Search)\nprint(server.server_port, flush=True)\n'
    program = program.replace(serve, f"{serve_once}server.handle_request()\n")
    command = [sys.executable, "-W", "error", "-c", program]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        port = service.stdout.readline().strip()
        picture = (folder / "catalogue/shoe.png").read_bytes()
        request = urllib.request.Request(f"http://localhost:{port}/?text=is+red", picture)
        with urllib.request.urlopen(request) as answer:
            matches = json.load(answer)
    assert sorted(name for name, _ in matches) == ["boot.png", "sandal.png", "shoe.png"]
    scores = [score for _, score in matches]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.slow
def test_the_readmes_commands_and_python_run_in_order(clone: Path) -> None:
    installed = Path(sys.prefix) / ".rtd-plugin"  # this test's environment counts as set up
    for language, text in BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8")):
        if text == "make test\n":
            assert "pytest" in run_shell("make --dry-run test", clone)
        elif text == "make quickstart\n":  # the README's first command, which has just run
            make = f"make --no-print-directory --dry-run --old-file={installed}"
            commands = run_shell(f"{make} quickstart VENV={sys.prefix}", clone)
            assert commands == f"{sys.prefix}/bin/rtd-plugin train --adapter lincir\n"
        elif language == "sh":
            outputs = {line: run_shell(line, clone) for line in text.splitlines()}
            assert "gain of tuning" in outputs.get("rtd-plugin train --adapter lincir", "gain of tuning")
        elif "serve_forever" in text:
            check_service(text, clone)
        elif language == "python":
            run_shell(f"{sys.executable} -W error - <<'EOF'\n{text}\nEOF", clone)


def test_the_readmes_recipe_and_long_command_are_right(tmp_path: Path) -> None:
    (recipe,) = find_blocks("yaml")
    (tmp_path / "recipe.yaml").write_text(recipe)
    assert read_recipe(tmp_path / "recipe.yaml").accumulation == yaml.safe_load(recipe)["accumulation"]
    (command,) = find_blocks("text")
    words = command.replace("\\\n", " ").split()
    assert words[:6] == ["torchrun", "--nproc-per-node", "4", "-m", "rtd_plugin", "train"]
    for name in ("lincir_large.pt", "LLM_triplets.json", "ViT-L-14.pt"):
        (tmp_path / name).touch()
    # The command is right, but its files are empty here, it needs four GPUs, and it would download the backbone.
    done = subprocess.run(
        [sys.executable, "-m", *words[4:], "--set", "precision=fp32", "--set", "backbone.checkpoint=ViT-L-14.pt"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "ViT-L-14.pt" in done.stderr


def test_the_command_line_reference_is_current() -> None:
    printed = run_shell(f"{sys.executable} {ROOT / 'docs' / 'cli_reference.py'}", ROOT)
    assert printed == (ROOT / "docs" / "cli.md").read_text(encoding="utf-8"), "run docs/cli_reference.py"


HOOKS = [function for name, function in inspect.getmembers(hookspecs, inspect.isfunction) if name.startswith("rtd_")]


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook.__name__)
def test_every_hook_is_documented_and_tested(hook: Any) -> None:
    """Its signature, when it is called, what it returns, an example, and who uses it."""
    text = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    signature = str(inspect.signature(hook)).replace("'", "")
    heading = f"### `{hook.__name__}{signature}`\n"
    assert heading in text
    section = text.split(heading)[1].split("\n#")[0].replace("by:\n", "by: ")
    for part in ("When: ", "Returns: ", "Used by: ", f"    def {hook.__name__}("):
        assert part in section, f"{hook.__name__}: the docs lack {part!r}"
    assert hook.__doc__
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert f"def test_hook_{hook.__name__}(" in tests, f"{hook.__name__} has no test of that name"


def test_documented_examples_of_hooks_are_accepted() -> None:
    """Each example is a plugin that the hooks accept."""
    text = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8").split("## Hooks\n")[1]
    examples = re.findall(r"(?:^    .*\n|^\n(?=    ))+", text, re.MULTILINE)
    assert len(examples) == len(HOOKS)
    for example in examples:
        namespace: dict[str, Any] = {"hookimpl": hookimpl}
        exec(textwrap.dedent(example), namespace)
        manager = plugins.PluginManager()
        manager.register(SimpleNamespace(**namespace), "example")
        manager.check_pending()
        assert len(manager.get_hookcallers(manager.get_plugin("example"))) == 1


def test_the_documented_example_of_an_adapter_works() -> None:
    text = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    example = re.search(r"^    from torch import nn\n(?:(?:    .*)?\n)+", text, re.MULTILINE)
    namespace: dict[str, Any] = {}
    exec(textwrap.dedent(example[0]), namespace)
    (adapter,) = namespace["rtd_adapters"]()
    pseudo_tokens = adapter.build_projection({}, features=8, token_width=4)(torch.zeros(2, 8))
    assert pseudo_tokens.shape == (2, 4)
    assert adapter.prompt.tokenize(["is red"]).shape[0] == 1
    assert len(adapter.encode_two("is red", "is big")) > len(adapter.unconditioned_prompt.encode())

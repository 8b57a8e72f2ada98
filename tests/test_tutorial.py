"""A third party's plugin, the tutorial's, installed with pip into a separate environment as a user would."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import torch

from rtd_plugin import load_text_encoder
from rtd_plugin.clip.tokens import Prompt

ROOT = Path(__file__).parents[1]
PLUGIN = ROOT / "tests" / "third_party" / "trident"
HOST = ROOT / "tests" / "third_party" / "host"
LACKING = ("pytest", "transformers", "clip")  # what tests need and a reader of the tutorial may lack
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")


def find_blocks(*languages: str) -> list[str]:
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL)
    return [text for language, text in blocks if language in languages]


def find_files() -> dict[str, str]:
    """The files that the tutorial shows, by the last file that the text before each names; and those it calls empty."""
    files, before = {}, ""
    for text, language, block in re.findall(r"(.*?)^```(\w+)\n(.*?)^```$", TUTORIAL, re.MULTILINE | re.DOTALL):
        before = text.split("\n\n\n")[-1]
        if language in ("toml", "python", "yaml"):
            files[re.findall(r"`([\w./-]+\.(?:toml|py|yaml))`", before)[-1]] = block
    return files | dict.fromkeys(re.findall(r"empty `([\w./-]+)`", TUTORIAL), "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files of the tutorial and no others."""
    folder = tmp_path_factory.mktemp("trident") / "trident"
    for name, text in find_files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def shell(folder):
    """A function that runs a script in the plugin's folder, in an environment with rtd-plugin and no other plugin."""
    environment = folder.parent / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    (packages / "borrowed.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    for name in LACKING:
        (packages / f"{name}.py").write_text("raise ModuleNotFoundError('a reader of the tutorial may lack this')\n")
    programs = environment / "bin"
    for name, module in {"rtd-plugin": "rtd_plugin", "pip": "pip"}.items():
        lines = ["#!/bin/sh", f'exec "{programs}/python" -m {module} "$@"']
        if name == "pip":  # builds with the packages of this environment: nothing is downloaded
            lines.insert(1, 'if [ "$1" = install ]; then set -- "$@" --no-index --no-build-isolation; fi')
        (programs / name).write_text("\n".join(lines) + "\n")
        (programs / name).chmod(0o755)
    variables = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}

    def shell(script):
        done = subprocess.run(
            ["sh", "-ec", script], cwd=folder, env=variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return shell


def test_the_files_are_those_of_the_tutorial():
    paths = {path: path.relative_to(PLUGIN) for path in PLUGIN.rglob("*") if path.suffix in (".toml", ".py", ".yaml")}
    paths |= {path: Path("trident-code", path.relative_to(HOST)) for path in HOST.rglob("*.py")}
    files = {str(name): path.read_text(encoding="utf-8") for path, name in paths.items()}
    files["rtd_trident/__init__.py"] = ""  # here it has a docstring
    assert find_files() == files


def test_the_adapter_is_short():
    assert len((PLUGIN / "rtd_trident" / "adapter.py").read_text().splitlines()) < 60


@pytest.mark.slow
def test_the_tutorial_from_installing_to_a_tuned_encoder(shell, folder):
    install, train, patch = find_blocks("sh")
    said = shell(install)
    assert re.search(r"trident +│ a photo of \* , \{condition\}", said)
    assert "adapter: trident" in said
    assert said.endswith("all checks passed\n")
    assert "rtd_trident" not in sys.modules
    said = shell(train)
    journal = (folder / "runs" / "trident" / "journal.txt").read_text().splitlines()
    assert journal[0] == "trident: starting after step 0"
    assert [line.split(":")[0] for line in journal if line.startswith("step")] == [f"step {n}" for n in range(1, 11)]
    assert journal[-2:] == ["saved step-000010", "wrote runs/trident/text_encoder.safetensors"]
    assert "journal" not in journal[0]
    assert said.splitlines()[-len(journal) - 1 : -1] == journal
    assert (folder / "trident-text-encoder.pt").is_file()
    before = torch.tensor(json.loads(shell("python trident-code/search.py")))
    said = shell(f"exec 2>&1; {patch}").splitlines()
    after = torch.tensor(json.loads(next(line for line in said if line.startswith("[["))))
    assert "rtd-plugin: 2 composed queries used the tuned text encoder" in said
    assert said[-1] == "trident: tuned by 10 steps"
    assert (after - before).abs().max() > 1e-3
    tower = load_text_encoder(folder / "runs" / "trident")
    texts = Prompt("a photo of * , {condition}", placeholder="*").tokenize(["is purple", "has a green background"])
    tokens = torch.linspace(-0.1, 0.1, 2 * 3 * 128).reshape(2, 3, 128)
    torch.testing.assert_close(after, tower.encode(texts, tokens, 265), rtol=1e-3, atol=1e-3)


def test_a_disabled_plugin_is_left_out(shell):
    said = shell("RTD_PLUGIN_DISABLE=trident,trident-journal rtd-plugin adapters --json")
    assert "trident" not in said
    assert "lincir" in said


@pytest.mark.slow
def test_two_packages_with_one_adapter_are_refused(shell, folder):
    """Both packages are named."""
    other = shutil.copytree(PLUGIN, folder.parent / "other")
    project = (other / "pyproject.toml").read_text()
    project = project.replace('name = "rtd-trident"', 'name = "rtd-other"').replace("rtd_trident", "rtd_other")
    project = re.sub(r"^(trident\S*) =", r"other-\1 =", project, flags=re.MULTILINE)
    (other / "pyproject.toml").write_text(project)
    (other / "rtd_trident").rename(other / "rtd_other")
    shell(f"pip install . {other}")
    said = shell("rtd-plugin adapters 2>&1 || true")
    assert "two plugins register the adapter 'trident': " in said
    assert "trident (of rtd-trident 1.0)" in said
    assert "other-trident (of rtd-other 1.0)" in said
    shell("pip uninstall --yes rtd-other")

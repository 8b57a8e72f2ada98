"""Hosts in a Python of their own, in which rtd-plugin is not installed."""

import os
import sys
import venv
from pathlib import Path

import pytest
import torch

# Not even what rtd-plugin needs; the rest of what is installed here is the hosts'.
NOT_INSTALLED = (
    "__editable__",
    "accelerate",
    "click",
    "open_clip",
    "pluggy",
    "pydantic",
    "rich",
    "rtd_",
    "safetensors",
    "wrapt",
    "yaml",
)


@pytest.fixture(scope="module")
def host_python(tmp_path_factory) -> str:
    """A virtual environment with packages of the hosts, here this Python's; `tests/versions.py` has an older one."""
    if python := os.environ.get("RTD_PLUGIN_HOST_PYTHON"):
        return python
    folder = tmp_path_factory.mktemp("python")
    venv.create(folder / "venv", with_pip=False)
    (folder / "packages").mkdir()
    for site in map(Path, sys.path):
        if site.name == "site-packages":
            for package in site.iterdir():
                link = folder / "packages" / package.name
                if not package.name.lower().startswith(NOT_INSTALLED) and not link.exists():
                    link.symlink_to(package)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    (site / "hosts.pth").write_text(f"{folder / 'packages'}\n")
    return str(folder / "venv/bin/python")


@pytest.fixture(scope="module")
def empty_python(tmp_path_factory) -> str:
    """A virtual environment in which nothing is installed."""
    folder = tmp_path_factory.mktemp("empty")
    venv.create(folder, with_pip=False)
    return str(folder / "bin/python")


def path_of(manifest, *more: str) -> str:
    return os.pathsep.join([str(manifest.folder / "site"), *more])


@pytest.mark.slow
def test_searle_composes_as_with_rtd_plugin_installed(patch_host, rtd, run_command, files, host_python, tmp_path):
    """Equal to the last bit if torch is the same; with and without the launcher."""
    manifest = patch_host("searle")
    host = Path(manifest.host)
    assert run_command(host_python, "-c", "import rtd_plugin").returncode == 1
    results = []
    for name, python in (("installed", sys.executable), ("not", host_python)):
        command = [python, "src/validate.py", files.clip, tmp_path / f"{name}.pt"]
        done = rtd("run", manifest.folder, "--", *command, cwd=host)
        assert (done.returncode, done.stdout) == (0, "recall = 50.00\n"), done.stderr
        assert done.stderr == "rtd-plugin: 3 composed queries used the tuned text encoder\n"
        results.append(torch.load(tmp_path / f"{name}.pt", weights_only=True))
    tolerance = 1e-5 if "RTD_PLUGIN_HOST_PYTHON" in os.environ else 0
    torch.testing.assert_close(results[1], results[0], rtol=tolerance, atol=tolerance)
    done = run_command(host_python, "src/validate.py", files.clip, "3.pt", cwd=host, PYTHONPATH=path_of(manifest))
    assert done.stderr == "rtd-plugin: 3 composed queries used the tuned text encoder\n"


@pytest.mark.slow
def test_shims_of_pic2word_repair_it(patch_host, rtd, files, host_python, tmp_path):
    manifest = patch_host("pic2word")
    command = [host_python, "src/eval_retrieval.py", files.clip, tmp_path / "result.pt"]
    done = rtd("run", manifest.folder, "--", *command, cwd=Path(manifest.host), PYTHONPATH="src:.")
    assert (done.returncode, done.stdout) == (0, "R@1: 50.00\n"), done.stderr
    assert done.stderr == (
        "rtd-plugin: 3 composed queries used the tuned text encoder; repaired: distributed, gallery-names\n"
    )


def test_packages_that_are_installed_take_precedence(patch_host, run_command, empty_python):
    manifest = patch_host("searle")
    code = "import rtd_plugin.patching.bootstrap as module; print(module.__file__)"
    for python, inside in ((sys.executable, False), (empty_python, True)):
        done = run_command(python, "-c", code, PYTHONPATH=path_of(manifest))
        assert done.stdout.startswith(str(manifest.folder / "code")) == inside, done.stderr


def test_modules_of_one_package_come_from_two_patches(patch_host, run_command, empty_python):
    """An inner run may patch another host."""
    outer, inner = patch_host("searle", folder="outer"), patch_host("pic2word", folder="inner")
    code = "import rtd_adapters.searle, rtd_adapters.pic2word_shims as s; print(s.__file__)"
    done = run_command(empty_python, "-c", code, PYTHONPATH=path_of(inner, str(outer.folder / "site")))
    assert done.stdout == f"{inner.folder}/code/rtd_adapters/pic2word_shims.py\n", done.stderr


ADAPTER = """
import yaml
from rtd_adapters.searle import SEARLE, read_composition as read_searle
from rtd_plugin.contract import CompositionPoint


def read_composition(clip_model, text, pseudo_tokens, num_tokens=1):
    return read_searle(clip_model, text, pseudo_tokens, num_tokens)


class Method(SEARLE):
    composition_points = (
        CompositionPoint(
            file="src/encode_with_pseudo_tokens.py",
            modules=("encode_with_pseudo_tokens",),
            name="encode_with_pseudo_tokens",
            read=read_composition,
        ),
    )
"""


def test_an_adapter_that_cannot_be_copied_needs_a_python_with_it(
    tmp_path, monkeypatch, files, copy_host, rtd, run_command, empty_python
):
    """The launcher refuses another Python at once; without a launcher it stops when it imports the host."""
    from rtd_plugin.clip.tuned_encoder import read_weights
    from rtd_plugin.patching.detection import find_host
    from rtd_plugin.patching.patch_folder import write_patch

    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins/lab_adapter.py").write_text(ADAPTER)
    monkeypatch.syspath_prepend(tmp_path / "plugins")
    import lab_adapter

    host = find_host(copy_host("searle"), [lab_adapter.Method()])
    manifest = write_patch(tmp_path / "patch", host, read_weights(files.run))
    assert manifest.not_copied == "lab_adapter imports yaml"
    assert manifest.packages == ["lab_adapter", "rtd_plugin"]
    script = tmp_path / "script"
    script.write_text(f"#!{empty_python}\nprint(5)\n")
    script.chmod(0o755)
    for words in ([empty_python, "-c", "print(5)"], [script]):
        done = rtd("run", manifest.folder, "--", *words)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            f"Error: {empty_python} cannot use the patch (it lacks lab_adapter and rtd_plugin): install lab_adapter "
            f"and rtd_plugin for it, because lab_adapter imports yaml, or run the host with {sys.executable}\n"
        )
    path = path_of(manifest, f"{manifest.host}/src")
    unrelated = run_command(empty_python, "-c", "print(5)", PYTHONPATH=path)
    assert (unrelated.returncode, unrelated.stdout, unrelated.stderr) == (0, "5\n", "")
    done = run_command(empty_python, "-c", "import encode_with_pseudo_tokens", PYTHONPATH=path)
    assert done.returncode == 1
    assert done.stderr.startswith("rtd-plugin: this Python lacks rtd-plugin (No module named 'rtd_plugin')")

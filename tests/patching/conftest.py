"""Miniature hosts, a tiny CLIP and its tuned text encoder, and processes that run under a patch."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from clip.model import CLIP

from rtd_plugin import __version__
from rtd_plugin.clip.artifact import TextEncoderInfo, save_text_encoder
from rtd_plugin.clip.fingerprint import digest, probe
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.clip.tuned_encoder import read_weights
from rtd_plugin.clip.weight_files import FILE_NAME
from rtd_plugin.contract import plugins
from rtd_plugin.patching import active_patch
from rtd_plugin.patching.detection import find_host
from rtd_plugin.patching.manifest import Manifest
from rtd_plugin.patching.patch_folder import write_patch

HOSTS = Path(__file__).parent / "hosts"


@dataclass(frozen=True)
class Files:
    """A tiny CLIP in fp32 whose values fp16 holds: some hosts round them.

    Attributes:
        clip: its checkpoint in OpenAI's layout, of an image and a text tower.
        run: a folder with the tuned text encoder.
        other: a file with a text encoder that was tuned from another CLIP.
        base, tuned: the text towers.
    """

    clip: Path
    run: Path
    other: Path
    base: TextTower
    tuned: TextTower


def round_to_half(module):
    for weight in module.parameters():
        weight.data = weight.data.half().float()
    return module


@pytest.fixture(scope="session")
def files(tmp_path_factory, randomise) -> Files:
    folder = tmp_path_factory.mktemp("files")
    clip = round_to_half(randomise(CLIP(32, 16, 1, 64, 16, 77, 49408, 64, 1, 2)))
    torch.save(clip.state_dict(), folder / "clip.pt")
    base = TextTower.from_state_dict(clip.state_dict()).eval().requires_grad_(False)
    tuned = round_to_half(randomise(TextTower.from_state_dict(clip.state_dict()), seed=1)).requires_grad_(False)
    other = randomise(TextTower.from_state_dict(clip.state_dict()), seed=2)

    def info(origin: TextTower, name: str) -> TextEncoderInfo:
        return TextEncoderInfo(
            version=__version__,
            activation="quick_gelu",
            heads=1,
            backbone=name,
            base_digest=digest(origin),
            base_probe=probe(origin).tolist(),
            adapter="searle",
            projection_digest="ab" * 32,
            triplets=["cd" * 32],
            step=12,
        )

    save_text_encoder(folder / "run" / FILE_NAME, tuned, info(base, "ViT-Tiny (base)"))
    save_text_encoder(folder / "other.safetensors", tuned, info(other, "ViT-Tiny (other)"))
    return Files(folder / "clip.pt", folder / "run", folder / "other.safetensors", base, tuned)


@pytest.fixture
def copy_host(tmp_path) -> Callable[[str], Path]:
    """Copies a miniature host, to a folder whose name does not tell which it is."""

    def copy_host(name: str) -> Path:
        index = len(list(tmp_path.glob("checkout *")))
        return shutil.copytree(HOSTS / name, tmp_path / f"checkout {index}")

    return copy_host


@pytest.fixture
def patch_host(tmp_path, files, copy_host) -> Callable[..., Manifest]:
    """Patches a host, given by name or folder."""

    def patch_host(name: str | Path, weights: Path | None = None, folder: str = "patch", **settings) -> Manifest:
        root = copy_host(name) if isinstance(name, str) else name
        recognised = find_host(root, plugins.list_adapters().values())
        return write_patch(tmp_path / folder, recognised, read_weights(weights or files.run), **settings)

    return patch_host


@pytest.fixture
def run_command(tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command in the test's folder or another, with this environment's programs first."""

    def run_command(*words: object, cwd: Path = tmp_path, **environment: str) -> subprocess.CompletedProcess[str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        variables = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        variables["PYTHONWARNINGS"] = "ignore"  # clip warns of pkg_resources
        for name in ("PYTHONPATH", "RTD_PLUGIN_USAGE_LOG"):
            variables.pop(name, None)
        arguments = list(map(str, words))
        return subprocess.run(
            arguments, cwd=cwd, env={**variables, **environment}, capture_output=True, text=True, check=False
        )

    return run_command


@pytest.fixture
def rtd(run_command) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command line in a new process."""
    return lambda *words, **more: run_command(sys.executable, "-m", "rtd_plugin", *words, **more)


@pytest.fixture
def write_program(tmp_path) -> Callable[[str], list[str]]:
    """Writes a program to a file of the test's folder; returns the command that runs it."""

    def write_program(program: str, name: str = "program.py") -> list[str]:
        (tmp_path / name).write_text(program)
        return [sys.executable, str(tmp_path / name)]

    return write_program


@pytest.fixture(autouse=True)
def _clean_up(tmp_path):
    """Deactivates every patch, forgets the modules of hosts, and restores the environment that a usage log changes."""
    path, environment = sys.path[:], dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(environment)
    for patch in list(active_patch._active.values()):
        patch.deactivate()
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]
    sys.path[:] = path

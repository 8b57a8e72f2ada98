"""Tunes CLIP's text encoder for zero-shot composed image retrieval (RTD), for any projection-based method.

Names are imported when they are first used: `rtd-plugin --help` does not import torch, and a patched host imports only
what it needs.
"""

from __future__ import annotations

from contextlib import nullcontext
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtd_plugin.clip.artifact import load_text_encoder
    from rtd_plugin.clip.tower import TextTower
    from rtd_plugin.contract.markers import hookimpl
    from rtd_plugin.generation.workflows import build_triplets
    from rtd_plugin.patching.activation import activate
    from rtd_plugin.training.loss import rtd_loss
    from rtd_plugin.workflows.evaluate import evaluate
    from rtd_plugin.workflows.search import load
    from rtd_plugin.workflows.train import train

__all__ = [
    "TextTower",
    "activate",
    "build_triplets",
    "evaluate",
    "hookimpl",
    "load",
    "load_text_encoder",
    "rtd_loss",
    "train",
]

_HOMES = {
    "TextTower": "rtd_plugin.clip.tower",
    "activate": "rtd_plugin.patching.activation",
    "build_triplets": "rtd_plugin.generation.workflows",
    "evaluate": "rtd_plugin.workflows.evaluate",
    "hookimpl": "rtd_plugin.contract.markers",
    "load": "rtd_plugin.workflows.search",
    "load_text_encoder": "rtd_plugin.clip.artifact",
    "rtd_loss": "rtd_plugin.training.loss",
    "train": "rtd_plugin.workflows.train",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("rtd-plugin")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rtd_plugin.errors import require_extra

    with require_extra("train", "training") if name == "train" else nullcontext():
        return getattr(import_module(_HOMES[name]), name)

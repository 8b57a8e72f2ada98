"""Finds the file with the weights in a folder, and warns if a file has several text encoders."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rtd_plugin.checkpoint_parts import split_key
from rtd_plugin.errors import RTDError

FILE_NAME = "text_encoder.safetensors"
NAMES = (
    FILE_NAME,
    "open_clip_model.safetensors",
    "model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
)


def find_weights(path: Path) -> Path:
    """Return the file of the weights in a folder, or the index of several files; a file, or `FILE#KEY`, as it is.

    Args:
        path: a run's folder, or one in Hugging Face's or open_clip's format, where a variant may be in the names
            (`model.fp16.safetensors`).

    Raises:
        RTDError: the file is missing, or the folder has no weights, or only LoRA's.
    """
    if not path.is_dir():
        if not split_key(path)[0].is_file():
            raise RTDError(f"{path}: no such file or folder")
        return path
    for name in NAMES:
        stem, _, suffix = name.rpartition(".")
        for pattern in (name, f"{name}.index.json", f"{name}.index.*.json", f"{stem}.*.{suffix}"):
            if files := sorted(path.glob(pattern)):
                return files[0]
    if (path / "adapter_config.json").is_file():
        raise RTDError(f"{path}: only LoRA weights, without their model: call merge_and_unload() and save the result")
    raise RTDError(f"{path}: no finished run and no weights in this folder: expected one of {', '.join(NAMES)}")


def warn_of_choice(path: Path, state: Mapping[str, Any]) -> None:
    """Warn which text encoder is read from a file with several, such as weights and their averages (EMA).

    Raises:
        RTDError: it has none.
    """
    from rtd_plugin.clip.layouts import find_towers  # imports torch

    keys = [prefix.rstrip(".") or "the top level" for prefix in find_towers(state)]
    if len(keys) > 1:
        logging.getLogger(__name__).warning(
            "%s has %d text encoders (%s): reading %s; for another, write %s#%s.",
            *(path, len(keys), ", ".join(keys), keys[0], path, keys[1]),
        )

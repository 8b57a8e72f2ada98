"""open_clip's tokenizer and model configurations, read from its files: importing the package takes seconds."""

import importlib.util
import json
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from rtd_plugin.regular_files import read_text


def _find_package() -> Path:
    spec = importlib.util.find_spec("open_clip")  # imports nothing
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'open_clip'")
    return Path(spec.origin).parent


@lru_cache(maxsize=1)
def load_tokenizer_module() -> ModuleType:
    """Return the module `open_clip.tokenizer`, without the rest of open_clip if possible."""
    if "open_clip" not in sys.modules:
        spec = importlib.util.spec_from_file_location("open_clip_tokenizer", _find_package() / "tokenizer.py")
        if spec is not None and spec.loader is not None:
            module = importlib.util.module_from_spec(spec)
            try:
                spec.loader.exec_module(module)
                return module
            except ImportError:  # a version whose tokenizer imports other modules of the package
                pass
    return importlib.import_module("open_clip.tokenizer")


@lru_cache(maxsize=1)
def list_architectures() -> dict[str, Path]:
    """Return the configuration files of open_clip's architectures by name."""
    files = {file.stem: file for file in sorted((_find_package() / "model_configs").glob("*.json"))}
    return {name: file for name, file in files.items() if {"embed_dim", "vision_cfg", "text_cfg"} <= _read(file).keys()}


def read_architecture(name: str) -> dict[str, Any]:
    """Return the configuration of one of open_clip's architectures."""
    return _read(list_architectures()[name])


def _read(file: Path) -> dict[str, Any]:
    return json.loads(read_text(file))

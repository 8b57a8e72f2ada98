"""The tuned text encoder that a patch is to use, and what is recorded of it."""

import json
from collections.abc import Mapping
from pathlib import Path

from rtd_plugin.clip.artifact import FILE_NAME, read_info
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.errors import RTDError, UsageError
from rtd_plugin.files import read_checkpoint
from rtd_plugin.patching.host_encoder import file_digest
from rtd_plugin.patching.manifest import TunedWeights

HUGGINGFACE_FILES = ("model.safetensors", "pytorch_model.bin")


def newest_run(runs: Path) -> Path:
    """The text encoder that was written last among the runs of a folder.

    Raises:
        UsageError: there is none.
    """
    found = list(runs.glob(f"*/{FILE_NAME}"))
    if not found:
        raise UsageError(f"there is no finished run in {runs.absolute()}: pass --weights RUN|FILE")
    return max(found, key=lambda path: path.stat().st_mtime)


def read_weights(path: Path) -> TunedWeights:
    """What a patch has to know of a tuned text encoder, which is loaded once to see that it is one.

    Args:
        path: a run's folder, its `text_encoder.safetensors`, or a text encoder in the layout of OpenAI, of Hugging Face
            (a file, or a folder of `save_pretrained`), or of the authors' RTD code.

    Raises:
        RTDError: it is none of them, or broken.
    """
    if not path.exists():
        raise RTDError(f"{path}: no such file or folder")
    file = _file(path)
    recorded = _recorded(file)
    state = read_checkpoint(file)
    try:
        TextTower.from_state_dict(state, activation=recorded.get("activation"), heads=recorded.get("heads"))
    except RTDError as error:
        raise RTDError(f"{file}: {error}") from error
    return TunedWeights(path=str(file), digest=file_digest(file), **recorded)


def _file(path: Path) -> Path:
    names = (FILE_NAME, *HUGGINGFACE_FILES)
    if path.is_file():
        return path.resolve()
    for name in names:
        if (path / name).is_file():
            return (path / name).resolve()
    raise RTDError(
        f"{path}: no text encoder in this folder: not a run that has finished, nor a folder of save_pretrained; "
        f"expected {', '.join(names)}"
    )


def _recorded(file: Path) -> Mapping[str, object]:
    """What the file itself says, if it is one of ours, or the configuration beside it."""
    if file.suffix == ".safetensors" and _is_ours(file):
        info = read_info(file)
        return {
            "activation": info.activation,
            "heads": info.heads,
            "adapter": info.adapter,
            "step": info.step,
            "base": info.backbone,
            "base_probe": info.base_probe,
        }
    config = file.with_name("config.json")
    if file.name in HUGGINGFACE_FILES and config.is_file():
        try:
            values = json.loads(config.read_text(encoding="utf-8"))
            values = values.get("text_config", values)
            return {"activation": values["hidden_act"], "heads": values["num_attention_heads"]}
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise RTDError(f"{config}: not the configuration of a text encoder: {error}") from error
    return {}


def _is_ours(file: Path) -> bool:
    """Whether a safetensors file has our metadata, of whatever format; exported ones do not."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            return "base_probe" in (opened.metadata() or {})
    except (SafetensorError, OSError):
        return False

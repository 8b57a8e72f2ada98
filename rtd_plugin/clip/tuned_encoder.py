"""Tuned text encoders in any layout, and what is recorded of them.

Importing it imports the standard library alone, because every process that runs under a patch reads a `TunedWeights`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtd_plugin.errors import RTDError, UsageError

if TYPE_CHECKING:
    from rtd_plugin.clip.tower import TextTower

FILE_NAME = "text_encoder.safetensors"
HUGGINGFACE_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class TunedWeights:
    """A tuned text encoder on disk.

    Attributes:
        path: its file, in any layout.
        digest: SHA-256 of the file.
        activation, heads: of the tower; None if neither the file nor a configuration beside it has them.
        adapter: name of the method that it was tuned for, if recorded.
        step: optimizer steps taken, if recorded.
        base: name of the CLIP that it was tuned from, if recorded.
        base_probe: probe of that CLIP's text tower, (4, 16) values; see `rtd_plugin.clip.fingerprint`.
    """

    path: str
    digest: str
    activation: str | None = None
    heads: int | None = None
    adapter: str | None = None
    step: int | None = None
    base: str | None = None
    base_probe: list[list[float]] | None = None


def find_newest_run(runs: Path) -> Path:
    """Return the text encoder that was written last among the runs of a folder.

    Raises:
        UsageError: no run is finished.
    """
    files = list(runs.glob(f"*/{FILE_NAME}"))
    if not files:
        raise UsageError(f"{runs.absolute()}: no finished run in this folder: pass --weights RUN|FILE")
    return max(files, key=lambda path: path.stat().st_mtime)


def read_weights(path: Path) -> TunedWeights:
    """Return what is recorded of a tuned text encoder, after loading it once as a check.

    Args:
        path: a run's folder, its `text_encoder.safetensors`, or a text encoder in the layout of OpenAI, of Hugging Face
            (a file, or a folder of `save_pretrained`), or of the authors' RTD code.

    Raises:
        RTDError: the path is missing or in another layout, or its weights are broken, not finite, or in several files.
    """
    from rtd_plugin.clip.tower import TextTower
    from rtd_plugin.files import hash_file, read_checkpoint

    if not path.exists():
        raise RTDError(f"{path}: no such file or folder")
    file = _find_file(path)
    recorded = _read_recorded(file)
    state = read_checkpoint(file)
    try:
        TextTower.from_state_dict(state, activation=recorded.get("activation"), heads=recorded.get("heads"))
    except RTDError as error:
        raise RTDError(f"{file}: {error}") from error
    return TunedWeights(path=str(file), digest=hash_file(file), **recorded)


def check_base(weights: TunedWeights, base: "TextTower", clause: str, hint: str = "") -> None:
    """Check that a text encoder was tuned from a given tower, by the probe recorded with it, if there is one.

    Args:
        weights: the tuned text encoder.
        base: the pre-trained tower, in fp32 on the CPU.
        clause: what the message says about `base`, such as "the backbone given here has other weights".
        hint: a sentence that ends the message: what to do.

    Raises:
        RTDError: the probes differ by more than rounding explains.
    """
    import torch

    from rtd_plugin.clip.fingerprint import PROBE_TOLERANCE, probe

    if weights.base_probe is None:
        return
    difference = (probe(base) - torch.tensor(weights.base_probe, device="cpu")).abs().max().item()
    if not difference <= PROBE_TOLERANCE:  # also if it is NaN
        raise RTDError(
            f"{weights.path} was tuned from {weights.base}, but {clause}: their features differ by "
            f"{difference:.2g} (the same CLIP's by less than {PROBE_TOLERANCE}){f'. {hint}' if hint else ''}"
        )


def _find_file(path: Path) -> Path:
    if path.is_file():
        return path.resolve()
    names = (FILE_NAME, *HUGGINGFACE_FILES)
    for name in names:
        if (path / name).is_file():
            return (path / name).resolve()
        if (path / f"{name}.index.json").is_file():
            raise RTDError(
                f"{path}: its weights are sharded into several files: save them in one, with "
                "save_pretrained(folder, max_shard_size='50GB')"
            )
    raise RTDError(
        f"{path}: no text encoder in this folder: neither a finished run nor a folder of save_pretrained; "
        f"expected {', '.join(names)}"
    )


def _read_recorded(file: Path) -> Mapping[str, Any]:
    """Return the metadata of a text encoder that a run saved, or the configuration beside a Hugging Face file."""
    if file.suffix == ".safetensors" and _has_metadata(file):
        from rtd_plugin.clip.artifact import read_info

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
        from rtd_plugin.clip.huggingface_config import read_text_config

        text = read_text_config(config)
        return {"activation": text.activation, "heads": text.heads}
    return {}


def _has_metadata(file: Path) -> bool:
    """Whether a safetensors file has the metadata of a saved text encoder, in any format; exported files do not."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as weights:
            return "base_probe" in (weights.metadata() or {})
    except (SafetensorError, OSError):
        return False

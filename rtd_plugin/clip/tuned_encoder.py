"""Tuned text encoders in any layout, and the metadata recorded with them.

Importing it imports the standard library alone, because every process that runs under a patch reads a `TunedWeights`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtd_plugin.checkpoint_parts import hash_checkpoint, split_key
from rtd_plugin.clip.weight_files import FILE_NAME, find_weights, warn_of_choice
from rtd_plugin.errors import RTDError, UsageError, locate_errors
from rtd_plugin.regular_files import check_regular, resolve_links

if TYPE_CHECKING:
    from rtd_plugin.clip.tower import TextTower


@dataclass(frozen=True)
class TunedWeights:
    """A tuned text encoder on disk.

    Attributes:
        path: its file, or the index of its files, in any layout.
        digest: see `rtd_plugin.checkpoint_parts.hash_checkpoint`.
        activation, heads: of the tower; None if neither the file nor a configuration beside it has them.
        adapter: name of the method that it was tuned for, if recorded.
        step: optimizer steps taken, if recorded.
        base: name of the CLIP that it was tuned from, if recorded.
        base_probe: probe of that CLIP's text tower, (4, 16) values; see `rtd_plugin.clip.fingerprint`.
        key: its key in the file; None if it has none.
    """

    path: str
    digest: str
    activation: str | None = None
    heads: int | None = None
    adapter: str | None = None
    step: int | None = None
    base: str | None = None
    base_probe: list[list[float]] | None = None
    key: str | None = None

    def read(self) -> Mapping[str, Any]:
        """Read the weights, see `rtd_plugin.checkpoint_files.read_checkpoint`.

        Raises:
            RTDError: they are missing or broken.
        """
        from rtd_plugin.checkpoint_files import read_checkpoint

        return read_checkpoint(Path(self.path if self.key is None else f"{self.path}#{self.key}"))


def find_newest_run(runs: Path) -> Path:
    """Return the text encoder written last by a run in a folder.

    Raises:
        UsageError: no run is finished.
    """
    files = list(runs.glob(f"*/{FILE_NAME}"))
    if not files:
        raise UsageError(f"{runs.absolute()}: no finished run in this folder: pass --weights RUN|FILE")
    return max(files, key=lambda path: path.stat().st_mtime)


def read_weights(path: Path) -> TunedWeights:
    """Return the metadata of a tuned text encoder, after loading it once as a check.

    Args:
        path: a run's folder, its `text_encoder.safetensors`, or a text encoder in the layout of OpenAI, of Hugging Face
            (a file, or a folder of `save_pretrained`), or of the authors' RTD code; `FILE#KEY` for one of several.

    Raises:
        RTDError: the path is missing or in another layout, or its weights are broken or not finite.
    """
    from rtd_plugin.clip.tower import TextTower

    file, key = split_key(find_weights(path))
    weights = TunedWeights(str(resolve_links(file)), digest="", key=key)
    with locate_errors(file):
        state = weights.read()
        warn_of_choice(file, state)
        # Hashed after reading: a file that is not a checkpoint may have any size.
        weights = replace(weights, digest=hash_checkpoint(file), **_read_recorded(file, state))
        TextTower.from_state_dict(state, activation=weights.activation, heads=weights.heads)
    return weights


def check_base(weights: TunedWeights, base: TextTower, clause: str, hint: str = "") -> None:
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


def _read_recorded(file: Path, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the metadata of a text encoder that a run saved, or the configuration beside a Hugging Face file."""
    if _has_metadata(file):
        from rtd_plugin.clip.artifact import read_info

        info = read_info(file)
        names = ("activation", "heads", "adapter", "step", "base_probe")
        return {"base": info.backbone, **{name: getattr(info, name) for name in names}}
    from rtd_plugin.clip.huggingface_config import find_text_config

    text = find_text_config(file, state)
    return {} if text is None else {"activation": text.activation, "heads": text.heads}


def _has_metadata(file: Path) -> bool:
    """Whether a safetensors file has the metadata of a saved text encoder, in any format; exported files do not."""
    from safetensors import SafetensorError, safe_open

    try:
        check_regular(file)
        with safe_open(file, framework="pt") as weights:
            return "base_probe" in (weights.metadata() or {})
    except (SafetensorError, OSError):
        return False

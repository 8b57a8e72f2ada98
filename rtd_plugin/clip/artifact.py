"""The saved text encoder: weights in `TextTower`'s layout as safetensors, described by the file's metadata.

The file's bytes depend on its content alone: two runs that end with the same weights write the same file.
"""

import json
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from rtd_plugin.clip.layouts import check_finite
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.clip.weight_files import find_weights
from rtd_plugin.errors import RTDError, locate_errors
from rtd_plugin.files import write_atomically
from rtd_plugin.hub import find_run
from rtd_plugin.regular_files import check_regular

FORMAT = 1


class TextEncoderInfo(BaseModel):
    """The metadata of a saved text encoder: of the safetensors file, each value as JSON.

    Attributes:
        format: version of the metadata format.
        version: of the rtd-plugin that wrote the file.
        activation, heads: settings of the tower that its weights do not determine.
        backbone: name of the pre-trained CLIP that training started from.
        base_digest: of the pre-trained text tower, see `rtd_plugin.clip.fingerprint.digest`.
        base_probe: features of the pre-trained text tower, see `rtd_plugin.clip.fingerprint.probe`.
        adapter: the method it was trained for.
        projection_digest: SHA-256 of the projection's checkpoint file.
        triplets: digest of each triplet source.
        step: optimizer steps taken.
    """

    model_config = ConfigDict(extra="forbid")

    format: int = FORMAT
    version: str
    activation: str
    heads: int
    backbone: str
    base_digest: str
    base_probe: list[list[float]]
    adapter: str
    projection_digest: str
    triplets: list[str]
    step: int


def save_text_encoder(path: Path, tower: TextTower, info: TextEncoderInfo) -> None:
    """Write a text encoder atomically.

    Raises:
        RTDError: a weight is not finite, or the file cannot be written.
    """
    weights = {name: weight.detach().cpu().contiguous() for name, weight in tower.state_dict().items()}
    with locate_errors(f"{path}: not written"):
        check_finite(weights)
    metadata = {name: json.dumps(value) for name, value in info.model_dump().items()}
    with write_atomically(path) as draft:
        save_file(weights, draft, metadata=metadata)
        _sort_metadata(draft)


def _sort_metadata(path: Path) -> None:
    """Sort the metadata in a safetensors header, whose order differs from process to process."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        content = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(content) > length:
            raise RuntimeError(f"a safetensors header of {length} bytes grew to {len(content)}")
        file.seek(8)
        file.write(content.ljust(length))  # the format pads with spaces


def read_info(path: Path) -> TextEncoderInfo:
    """Read the metadata of a saved text encoder.

    Raises:
        RTDError: the file is broken, of a newer format, or was not saved by rtd-plugin.
    """
    try:
        check_regular(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise RTDError(f"{path}: not a safetensors file, or a broken or truncated one ({error})") from error
    if "format" not in metadata:
        raise RTDError(f"{path}: safetensors, but not a text encoder saved by rtd-plugin: it has no metadata")
    try:
        values = {name: json.loads(value) for name, value in metadata.items()}
        if values["format"] > FORMAT:
            raise RTDError(
                f"{path}: written by rtd-plugin {values.get('version')} in format {values['format']}, "
                f"but this version reads up to format {FORMAT}: upgrade rtd-plugin"
            )
        return TextEncoderInfo(**values)
    except (ValueError, TypeError, RecursionError) as error:  # pydantic's and json's errors are ValueErrors
        raise RTDError(f"{path}: its metadata is not that of a text encoder saved by rtd-plugin") from error


def load_text_encoder(
    run_or_file: str | Path, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> TextTower:
    """Load a tuned text encoder in eval mode, without gradients.

    Args:
        run_or_file: a run folder, a `text_encoder.safetensors`, or `hf://USER/NAME[@REVISION]` on the Hub.
        device: None for the CPU.
        dtype: None for that of the file, fp32.

    Raises:
        RTDError: the file is missing or broken, has weights that are not finite, or was not saved by rtd-plugin.

    Example:
        >>> tower = load_text_encoder("runs/lincir-miniature", device="cuda", dtype=torch.float16)  # doctest: +SKIP
        >>> tower.encode(tokens, pseudo_tokens).shape  # doctest: +SKIP
        torch.Size([8, 768])
    """
    path = find_weights(find_run(run_or_file))
    info = read_info(path)
    with locate_errors(path):
        tower = TextTower.from_state_dict(load_file(path), activation=info.activation, heads=info.heads)
    return tower.to(device=device, dtype=dtype).eval().requires_grad_(False)

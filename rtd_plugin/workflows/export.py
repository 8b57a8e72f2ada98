"""Write a run's text encoder in the layout that another library reads."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from rtd_plugin.clip.artifact import load_text_encoder
from rtd_plugin.clip.huggingface_config import CONFIG_FILE, build_text_config
from rtd_plugin.clip.layouts import write_state_dict
from rtd_plugin.clip.weight_files import find_weights
from rtd_plugin.errors import UsageError
from rtd_plugin.files import write_atomically, write_text
from rtd_plugin.hub import find_run
from rtd_plugin.regular_files import resolve_links


def export_text_encoder(run: Path, layout: str, file: Path) -> None:
    """Write a text encoder in another layout.

    Args:
        run: a run's folder, or its `text_encoder.safetensors`.
        layout: "openai" (OpenAI's clip and open_clip), "huggingface" (`CLIPTextModelWithProjection`) or "rtd" (the
            checkpoints of the authors' code).
        file: what to write: with safetensors if it ends so, otherwise with `torch.save`. With "huggingface", a name
            without an ending is a folder for `from_pretrained`.

    Raises:
        UsageError: the layout has no such file, or the file is the run's own text encoder.
        RTDError: the run has no text encoder, or the file cannot be written.
    """
    if layout == "rtd" and file.suffix == ".safetensors":
        raise UsageError(f"{file}: the authors' code reads files of torch.save only: end the name in .pt")
    run = find_run(run)
    if resolve_links(file) == resolve_links(find_weights(run)):
        raise UsageError(f"{file}: is the run's own text encoder: export to another file")
    tower = load_text_encoder(run)
    state = write_state_dict(tower.state_dict(), layout)
    is_folder = layout == "huggingface" and not file.suffix
    weights = file / "model.safetensors" if is_folder else file
    with write_atomically(weights) as draft:
        if weights.suffix == ".safetensors":
            save_file(state, draft, metadata={"format": "pt"})
        else:
            torch.save(state, draft)
    if is_folder:
        write_text(file / CONFIG_FILE, json.dumps(build_text_config(tower), indent=2) + "\n")

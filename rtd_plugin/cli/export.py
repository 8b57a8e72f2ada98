"""`rtd-plugin export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rtd_plugin.cli.console import out, print_json
from rtd_plugin.errors import UsageError

if TYPE_CHECKING:
    from rtd_plugin.clip.tower import TextTower

LAYOUTS = ("openai", "huggingface", "rtd")  # as in clip.layouts, which `--help` must not import


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--layout", type=click.Choice(LAYOUTS), required=True, help="Whose names and shapes the weights get.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(run: Path, layout: str, file: Path, as_json: bool) -> None:
    """Write the text encoder of RUN (a run folder or its text_encoder.safetensors) to FILE in another layout.

    openai is the layout of OpenAI's clip and of open_clip; huggingface that of CLIPTextModelWithProjection; rtd the
    checkpoints of the authors' code. A FILE ending in .safetensors is written as such, any other with torch.save. With
    huggingface, a FILE without an ending is a folder for from_pretrained.

    \b
    Examples:
      rtd-plugin export runs/lincir-miniature --layout huggingface text_encoder
      rtd-plugin export runs/lincir-miniature --layout openai text_encoder.pt
    """
    # These bring torch along, which `--help` does not wait for.
    import torch
    from safetensors.torch import save_file

    from rtd_plugin.clip.artifact import artifact_path, load_text_encoder
    from rtd_plugin.clip.layouts import write_state_dict
    from rtd_plugin.files import write_atomically, write_text

    if layout == "rtd" and file.suffix == ".safetensors":
        raise UsageError(f"{file}: the authors' code reads files of torch.save only: end the name in .pt")
    if file.resolve() == artifact_path(run).resolve():
        raise UsageError(f"{file}: is the run's own text encoder: export to another file")
    tower = load_text_encoder(run)
    state = write_state_dict(tower.state_dict(), layout)
    folder = layout == "huggingface" and not file.suffix
    weights = file / "model.safetensors" if folder else file
    with write_atomically(weights) as draft:
        if weights.suffix == ".safetensors":
            save_file(state, draft, metadata={"format": "pt"})
        else:
            torch.save(state, draft)
    if folder:
        write_text(file / "config.json", json.dumps(_huggingface_config(tower), indent=2) + "\n")
    if as_json:
        print_json({"file": str(file), "layout": layout})
    else:
        out().print(f"Wrote {file} in the {layout} layout.", soft_wrap=True)


def _huggingface_config(tower: TextTower) -> dict[str, Any]:
    """The configuration of a `CLIPTextModelWithProjection` of the tower's sizes."""
    from rtd_plugin.clip.tokens import END, START

    return {
        "architectures": ["CLIPTextModelWithProjection"],
        "model_type": "clip_text_model",
        "vocab_size": len(tower.token_embedding.weight),
        "max_position_embeddings": tower.context_length,
        "hidden_size": tower.width,
        "intermediate_size": tower.transformer.resblocks[0].mlp.c_fc.out_features,
        "num_hidden_layers": len(tower.transformer.resblocks),
        "num_attention_heads": tower.heads,
        "hidden_act": tower.activation,
        "projection_dim": tower.features,
        "layer_norm_eps": tower.ln_final.eps,
        "bos_token_id": START,
        "eos_token_id": END,
        "pad_token_id": END,
    }

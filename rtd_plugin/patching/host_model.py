"""Reads a host's live CLIP of any library: its text tower, its settings, its device and dtype."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rtd_plugin.clip.layouts import read_state_dict
from rtd_plugin.clip.tower import TextTower


def copy_text_tower(model: nn.Module, activation: str | None, heads: int | None) -> TextTower:
    """Return a copy of a model's text tower in fp32 on the CPU, with the activation and heads of the live model.

    Args:
        model: OpenAI's or open_clip's CLIP, a text model of transformers, or one with their parameters' names.
        activation, heads: used where the model does not say.

    Raises:
        RTDError: its weights are not those of a CLIP text tower.
    """
    model_activation, model_heads = read_settings(model)
    weights = {name: weight.detach().float().cpu() for name, weight in read_state_dict(model.state_dict()).items()}
    return TextTower.from_state_dict(weights, activation=model_activation or activation, heads=model_heads or heads)


def read_settings(model: nn.Module) -> tuple[str | None, int | None]:
    """Return activation and heads of a model's text tower, which weights do not tell; None for what is unknown."""
    model = getattr(model, "module", model)  # inside DistributedDataParallel
    config: Any = getattr(model, "config", None)
    config = getattr(config, "text_config", config)
    if hasattr(config, "hidden_act"):
        return config.hidden_act, getattr(config, "num_attention_heads", None)
    block = next(iter(getattr(getattr(model, "transformer", None), "resblocks", ())), None)
    activation = type(getattr(getattr(block, "mlp", None), "gelu", None)).__name__
    heads = getattr(getattr(block, "attn", None), "num_heads", None)
    return {"QuickGELU": "quick_gelu", "GELU": "gelu"}.get(activation), heads


def read_placement(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return device and dtype of a model's text features: those of its text projection, or of its first weight."""
    model = getattr(model, "module", model)
    projection: Any = getattr(model, "text_projection", None)
    projection = getattr(projection, "weight", projection)
    weight = projection if isinstance(projection, Tensor) else next(model.parameters())
    return weight.device, weight.dtype


@torch.no_grad()
def round_like(tower: TextTower, model: TextTower) -> None:
    """Round a tower's weights as the host rounded its model's when it loaded them.

    Hosts that hold their CLIP in fp32 may have loaded it in fp16: LinCIR all of it, OpenAI's package all but its
    embeddings and norms. The two groups of weights are compared separately.

    Args:
        tower: in fp32; changed in place.
        model: the model's text tower in fp32, of the same blocks.
    """
    for matrices in (True, False):
        weights = [weight for name, weight in model.named_parameters() if _is_matrix(name) is matrices]
        for dtype in (torch.bfloat16, torch.float16):
            if all(torch.equal(weight, weight.to(dtype).to(weight.dtype)) for weight in weights):
                for name, weight in tower.named_parameters():
                    if _is_matrix(name) is matrices:
                        weight.copy_(weight.to(dtype))
                break


def _is_matrix(name: str) -> bool:
    """Whether a parameter of `TextTower` is one of those that OpenAI's package holds in fp16, biases included."""
    return ".attn." in name or ".mlp." in name or name == "text_projection"


def describe_model(model: nn.Module, tower: TextTower) -> str:
    """Return a model's class, its name if it has one, and its sizes, for messages."""
    model = getattr(model, "module", model)
    name = getattr(getattr(model, "config", None), "_name_or_path", None)
    described = f"{type(model).__name__} {name}" if name else type(model).__name__
    return f"{described} ({format_sizes(tower)})"


def format_sizes(tower: TextTower) -> str:
    """Return a tower's sizes in words."""
    return f"width {tower.width}, {len(tower.transformer.resblocks)} layers, features of {tower.features}"

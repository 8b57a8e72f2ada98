"""Layouts of a CLIP text tower's state dict, recognised by their keys and converted without loss.

- "openai": OpenAI's `clip/model.py` and open_clip's `CLIP`, the layout of `TextTower` itself;
- "huggingface": `CLIPTextModelWithProjection` of transformers;
- "rtd": the same within a checkpoint of the authors' RTD code, `{'epoch': int, 'CLIPTextModelWithProjection': …}`.

Training programs nest state dicts in checkpoints, and models in other modules: a tower is found below any keys and
prefixes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rtd_plugin.checkpoint_parts import flatten_checkpoint
from rtd_plugin.errors import RTDError

LAYOUTS = ("openai", "huggingface", "rtd")
AUTHORS_KEY = "CLIPTextModelWithProjection"

# A tower's first weight below a prefix, and other weights of it; `visual.` is open_clip's image tower.
TOKEN_EMBEDDING = re.compile(r"((?:.+?\.)??)(?:text_model\.embeddings\.|(?:text\.)?)token_embedding\.weight")
BLOCKS = re.compile(r"((?:.+?\.)??)(?<!visual\.)(?:text_model\.|(?:text\.)?transformer\.resblocks\.\d).*")
WRAPPERS = re.compile(r"\b((module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)+")
AVERAGED = re.compile(r"(?<![a-z])ema(?![a-z])", re.IGNORECASE)
UNMERGED = re.compile(r".*(?<![a-z])((lora|hada|lokr|oft|ia3|vera)_|base_layer\.).*")  # peft's and loralib's

# Weights and buffers of a whole CLIP that do not belong to its text tower, and its sizes.
NOT_TEXT = re.compile(
    r"(visual|vision_model|visual_projection)\b|logit_scale$|logit_bias$|"
    r"(input_resolution|context_length|vocab_size|attn_mask)$|text_model\.embeddings\.position_ids$"
)

HUGGINGFACE_NAMES = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",  # transposed
}
HUGGINGFACE_BLOCK_NAMES = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
RELATIVES = re.compile(r"(.*\.)?(cls_emb|text_projection\.bias|text_decoder\..+|text_model\.head\..+)")  # CoCa, SigLIP
BLOCK = (
    "attn.in_proj_weight",
    "attn.in_proj_bias",
    *(f"{module}.{suffix}" for module in HUGGINGFACE_BLOCK_NAMES for suffix in ("weight", "bias")),
)


class TowerSizes(NamedTuple):
    """Sizes of a text tower: number of blocks, width of the residual stream, size of a feature."""

    layers: int
    width: int
    features: int

    def __str__(self) -> str:
        layers = f"{self.layers} layer{'' if self.layers == 1 else 's'}"
        return f"{layers} of width {self.width} and features of size {self.features}"


def find_towers(state: Mapping[str, Any]) -> list[str]:
    """Return the prefixes below which a checkpoint has the weights of a text tower, averaged ones (EMA) last.

    Raises:
        RTDError: there are none.
    """
    names = flatten_checkpoint(state)
    for pattern in (TOKEN_EMBEDDING, BLOCKS):
        if prefixes := dict.fromkeys(match[1] for name in names if (match := pattern.fullmatch(name))):
            return sorted(prefixes, key=lambda prefix: bool(AVERAGED.search(prefix)))
    check_merged(names)
    shown = ", ".join(list(map(str, state))[:4]) or "no keys at all"
    raise RTDError(
        "not the weights of a CLIP text tower: expected OpenAI's, open_clip's or Hugging Face's keys, "
        f"but found {shown}"
    )


def check_merged(names: Iterable[str]) -> None:
    """Check that no weight is an adapter's, LoRA's for example.

    Raises:
        RTDError: one is.
    """
    if any(UNMERGED.fullmatch(name) for name in names):
        raise RTDError(
            "LoRA (or another of peft's adapters) is not merged into the weights: "
            "call merge_and_unload() on the model, and save what it returns"
        )


def select_clip(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights of the CLIP in a checkpoint, of the first if it has several, by their names in that CLIP.

    Raises:
        RTDError: there is none, it is a relative of CLIP, or it has LoRA's weights beside it.
    """
    prefix = find_towers(state)[0]
    names = flatten_checkpoint(state).items()
    weights = {WRAPPERS.sub("", name[len(prefix) :]): value for name, value in names if name.startswith(prefix)}
    check_merged(weights)
    if any(RELATIVES.fullmatch(name) for name in weights):
        raise RTDError(
            "the weights of a model with another text tower (SigLIP, CoCa, …): "
            "pseudo tokens need CLIP's, which is causal and read at the end token"
        )
    return weights


def strip_wrapper(checkpoint: Mapping[Any, Any], depth: int = 2) -> dict[str, Any]:
    """Return a checkpoint without a wrapper's prefix (`module.`) that is on all keys of a dictionary."""
    wrapped = all(WRAPPERS.match(str(key)) for key in checkpoint)
    return {
        WRAPPERS.sub("", str(key), count=1) if wrapped else str(key): (
            strip_wrapper(value, depth - 1) if depth > 1 and isinstance(value, Mapping) else value
        )
        for key, value in checkpoint.items()
    }


def detect_layout(state: Mapping[str, Any]) -> str:
    """Return the layout of the text tower in a checkpoint, "openai" or "huggingface".

    Raises:
        RTDError: the checkpoint has no CLIP text tower.
    """
    return _select_text_weights(state)[0]


def read_state_dict(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the text tower's weights in the layout of `TextTower`.

    Args:
        state: a state dict in any of the layouts, of a text tower or a whole CLIP, possibly inside a checkpoint
            (`state_dict`, `model`) and below a prefix (`module.`); of several towers the first, see `find_towers`.

    Returns:
        Tensors by their names in `TextTower`. Their shapes are not checked against each other.

    Raises:
        RTDError: unknown layout, a key that is missing or unexpected, or a value that is not a tensor of finite
            floating-point values.
    """
    layout, weights = _select_text_weights(state)
    names = {name: layout_names(name, layout) for name in _list_names(_count_blocks(weights))}
    expected = [key for keys in names.values() for key in keys]
    for key in expected:
        if key not in weights:
            raise RTDError(f"missing key {key}")
    for key in sorted(weights.keys() - set(expected)):
        raise RTDError(f"unexpected key {key}")
    for key, value in weights.items():
        if not (isinstance(value, Tensor) and value.is_floating_point()):
            type_name = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise RTDError(f"{key} is not a tensor of floating-point numbers, but {type_name}")
    check_finite(weights)
    return {name: _join(name, {key: weights[key] for key in keys}, layout) for name, keys in names.items()}


def read_sizes(state: Mapping[str, Any]) -> TowerSizes | None:
    """Return the sizes of the text tower in a state dict; None if a weight needed for them is missing or misshapen.

    Raises:
        RTDError: unknown layout.
    """
    layout, weights = _select_text_weights(state)
    shapes = []
    for name in ("token_embedding.weight", "text_projection"):
        weight = weights.get(layout_names(name, layout)[0])
        if not isinstance(weight, Tensor) or weight.ndim != 2:
            return None
        shapes.append(weight.shape)
    return TowerSizes(_count_blocks(weights), shapes[0][1], shapes[1][1 if layout == "openai" else 0])


def check_finite(weights: Mapping[str, Tensor]) -> None:
    """Check that all values are finite.

    Raises:
        RTDError: a weight has infinite or NaN values, which would spread to every feature, or is not a dense tensor.
    """
    for key, weight in weights.items():
        if not isinstance(weight, Tensor):
            raise RTDError(f"{key} is not a tensor, but {type(weight).__name__}")
        if weight.layout is not torch.strided:
            raise RTDError(f"{key} is a sparse tensor: save it with to_dense()")
        if weight.is_meta or not weight.is_floating_point() or not weight.numel():
            continue
        values = weight.detach()
        if weight.element_size() == 1 or weight.dtype is torch.float16:
            values = values.float()  # float8 has no aminmax, nor has fp16 on a CPU with torch 1.11
        # Extrema propagate NaN; 15 times as fast as `isfinite`, which writes a tensor of the weight's size.
        if not torch.stack(values.aminmax()).isfinite().all():
            raise RTDError(f"{key} has infinite or NaN values: the file is damaged, or its training diverged")


def write_state_dict(weights: Mapping[str, Tensor], layout: str) -> dict[str, Any]:
    """Return the weights of a `TextTower` in one of `LAYOUTS`: the inverse of `read_state_dict`."""
    state: dict[str, Tensor] = {}
    for name, weight in weights.items():
        keys = layout_names(name, layout)
        if layout != "openai" and name == "text_projection":
            weight = weight.T
        # Copies, because safetensors refuses tensors that share memory.
        values = [value.clone() for value in weight.chunk(3)] if len(keys) == 3 else [weight.contiguous()]
        state.update(zip(keys, values, strict=True))
    return {"epoch": 0, AUTHORS_KEY: state} if layout == "rtd" else state


def layout_names(name: str, layout: str) -> list[str]:
    """Return a layout's keys of a parameter of `TextTower`: one, or three where Hugging Face splits q, k and v."""
    if layout == "openai":
        return [name]
    if name in HUGGINGFACE_NAMES:
        return [HUGGINGFACE_NAMES[name]]
    _, _, block, parameter = name.split(".", 3)
    module, suffix = parameter.replace("in_proj_", "in_proj.").rsplit(".", 1)
    modules = [f"self_attn.{p}_proj" for p in "qkv"] if module == "attn.in_proj" else [HUGGINGFACE_BLOCK_NAMES[module]]
    return [f"text_model.encoder.layers.{block}.{module}.{suffix}" for module in modules]


def _select_text_weights(state: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return a text tower's layout, and its weights by their names in that layout."""
    weights = select_clip(state)
    layout = "huggingface" if any(key.startswith("text_model.") for key in weights) else "openai"
    if layout == "openai":
        weights = {key[5:] if key.startswith("text.") else key: value for key, value in weights.items()}
    return layout, {key: value for key, value in weights.items() if not NOT_TEXT.match(key)}


def _count_blocks(keys: Iterable[str]) -> int:
    """Return the number of blocks, at least 1: the keys of a missing block are then reported."""
    block = re.compile(r"(?:transformer\.resblocks|text_model\.encoder\.layers)\.(\d+)\.")
    return len({match[1] for key in keys if (match := block.match(key))}) or 1


def _list_names(blocks: int) -> list[str]:
    return [
        *HUGGINGFACE_NAMES,
        *(f"transformer.resblocks.{block}.{parameter}" for block in range(blocks) for parameter in BLOCK),
    ]


def _join(name: str, weights: Mapping[str, Tensor], layout: str) -> Tensor:
    """Return the weight `name` of `TextTower` from a layout's one or three weights."""
    shapes = {tuple(weight.shape) for weight in weights.values()}
    if len(shapes) > 1:
        raise RTDError(f"{', '.join(weights)} must have one shape, but have {', '.join(map(str, sorted(shapes)))}")
    weight = torch.cat(list(weights.values())) if len(weights) > 1 else next(iter(weights.values()))
    transposed = layout != "openai" and name == "text_projection" and weight.ndim == 2
    return weight.T.contiguous() if transposed else weight

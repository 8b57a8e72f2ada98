"""Layouts of a CLIP text tower's state dict, recognised by their keys and converted without loss.

- "openai": OpenAI's `clip/model.py` and open_clip's `CLIP`, the layout of `TextTower` itself;
- "huggingface": `CLIPTextModelWithProjection` of transformers;
- "rtd": the checkpoints of the authors' RTD code, `{'epoch': int, 'CLIPTextModelWithProjection': state dict}`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from rtd_plugin.errors import RTDError

LAYOUTS = ("openai", "huggingface", "rtd")
AUTHORS_KEY = "CLIPTextModelWithProjection"

# Wrapped state dicts of training programs, and prefixes that wrappers leave on every key.
CONTAINERS = ("state_dict", "model_state_dict", "model")
WRAPPERS = ("module.", "_orig_mod.")

# What a whole CLIP holds besides its text tower, and what no weights depend on.
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
    *(f"{part}.{kind}" for part in HUGGINGFACE_BLOCK_NAMES for kind in ("weight", "bias")),
)


def detect_layout(state: Mapping[str, Any]) -> str:
    """Which of `LAYOUTS` a state dict is in, by its keys.

    Raises:
        RTDError: none of them.
    """
    if isinstance(state.get(AUTHORS_KEY), Mapping):
        return "rtd"
    keys = unwrapped(state)
    if any(RELATIVES.fullmatch(key) for key in keys):
        raise RTDError(
            "the weights of a relative of CLIP (SigLIP, CoCa, …) whose text tower is another one: "
            "pseudo tokens need CLIP's own, causal and read at the end token"
        )
    if any(key.startswith("text_model.") for key in keys):
        return "huggingface"
    if any(re.match(r"(text\.)?(token_embedding\.weight$|transformer\.resblocks\.\d)", key) for key in keys):
        return "openai"
    shown = ", ".join(list(map(str, state))[:4]) or "no keys at all"
    raise RTDError(
        "not the weights of a CLIP text tower: expected OpenAI's, open_clip's or Hugging Face's keys, "
        f"or {AUTHORS_KEY!r}, but found {shown}"
    )


def read_state_dict(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The text tower's weights in the layout of `TextTower`.

    Args:
        state: a state dict in any of the layouts, of a text tower or a whole CLIP, possibly inside a checkpoint
            (`state_dict`, `model`) and prefixed by a wrapper (`module.`).

    Returns:
        Tensors by their names in `TextTower`. Their shapes are not checked against each other.

    Raises:
        RTDError: no known layout, a key that is missing or unexpected, or a value that is not a tensor.
    """
    layout = detect_layout(state)
    found = unwrapped(state[AUTHORS_KEY] if layout == "rtd" else state)
    if layout == "openai":
        found = {key.removeprefix("text."): value for key, value in found.items()}
    found = {key: value for key, value in found.items() if not NOT_TEXT.match(key)}
    names = {name: layout_names(name, layout) for name in _names(_count_blocks(found))}
    expected = [key for keys in names.values() for key in keys]
    for key in expected:
        if key not in found:
            raise RTDError(f"missing key {key}")
    for key in sorted(found.keys() - set(expected)):
        raise RTDError(f"unexpected key {key}")
    for key, value in found.items():
        if not (isinstance(value, Tensor) and value.is_floating_point()):
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise RTDError(f"{key} is not a tensor of floating-point numbers, but {kind}")
    return {name: _joined(name, {key: found[key] for key in keys}, layout) for name, keys in names.items()}


def write_state_dict(weights: Mapping[str, Tensor], layout: str) -> dict[str, Any]:
    """The inverse of `read_state_dict`: weights of a `TextTower` in one of `LAYOUTS`."""
    state: dict[str, Tensor] = {}
    for name, weight in weights.items():
        keys = layout_names(name, layout)
        if layout != "openai" and name == "text_projection":
            weight = weight.T
        # Copies, because safetensors refuses tensors that share memory.
        parts = [part.clone() for part in weight.chunk(3)] if len(keys) == 3 else [weight.contiguous()]
        state.update(zip(keys, parts, strict=True))
    return {"epoch": 0, AUTHORS_KEY: state} if layout == "rtd" else state


def layout_names(name: str, layout: str) -> list[str]:
    """What a layout calls a parameter of `TextTower`: one name, or three where Hugging Face has q, k and v apart."""
    if layout == "openai":
        return [name]
    if name in HUGGINGFACE_NAMES:
        return [HUGGINGFACE_NAMES[name]]
    _, _, number, part = name.split(".", 3)
    part, kind = re.fullmatch(r"(.*)[._](weight|bias)", part).groups()
    parts = [f"self_attn.{p}_proj" for p in "qkv"] if part == "attn.in_proj" else [HUGGINGFACE_BLOCK_NAMES[part]]
    return [f"text_model.encoder.layers.{number}.{part}.{kind}" for part in parts]


def unwrapped(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state dict taken out of its checkpoint, its keys without their wrappers' prefixes."""
    for container in CONTAINERS:
        if isinstance(state.get(container), Mapping):
            return unwrapped(state[container])
    bare = {}
    for key, value in state.items():
        key = str(key)
        while key.startswith(WRAPPERS):
            key = key.split(".", 1)[1]
        bare[key] = value
    return bare


def _count_blocks(keys: Iterable[str]) -> int:
    """How many blocks a state dict has; of none there must be one, so that its keys are reported as missing."""
    block = re.compile(r"(?:transformer\.resblocks|text_model\.encoder\.layers)\.(\d+)\.")
    return len({match[1] for key in keys if (match := block.match(key))}) or 1


def _names(blocks: int) -> list[str]:
    return [*HUGGINGFACE_NAMES, *(f"transformer.resblocks.{n}.{part}" for n in range(blocks) for part in BLOCK)]


def _joined(name: str, parts: Mapping[str, Tensor], layout: str) -> Tensor:
    shapes = {tuple(part.shape) for part in parts.values()}
    if len(shapes) > 1:
        raise RTDError(f"{', '.join(parts)} must have one shape, but have {', '.join(map(str, sorted(shapes)))}")
    weight = torch.cat(list(parts.values())) if len(parts) > 1 else next(iter(parts.values()))
    transposed = layout != "openai" and name == "text_projection" and weight.ndim == 2
    return weight.T.contiguous() if transposed else weight

"""Conversion of a CLIP image tower's state dict from Hugging Face's layout (`CLIPVisionModelWithProjection`)."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from rtd_plugin.clip.layouts import HUGGINGFACE_BLOCK_NAMES

_NAMES = {
    "vision_model.embeddings.class_embedding": "class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "positional_embedding",
    "vision_model.pre_layrnorm": "ln_pre",  # sic
    "vision_model.post_layernorm": "ln_post",
    "vision_model.encoder.layers.": "transformer.resblocks.",
    **{f".{huggingface}.": f".{openai}." for openai, huggingface in HUGGINGFACE_BLOCK_NAMES.items()},
}
_PROJECTION = "visual_projection.weight"
_QUERY = re.compile(r"(.*)\.self_attn\.q_proj\.(weight|bias)")


def convert_image_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the image tower's weights under open_clip's names, given a state dict in either layout.

    Unknown keys are kept: `load_state_dict` reports them.
    """
    if _PROJECTION not in state:
        return {key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}
    weights = {"proj": state[_PROJECTION].T.contiguous()}
    for key, value in state.items():
        if not key.startswith("vision_model.") or key.endswith("position_ids") or re.search(r"\.[kv]_proj\.", key):
            continue
        if query := _QUERY.fullmatch(key):
            projections = [state.get(key.replace(".q_proj.", f".{letter}_proj.")) for letter in "qkv"]
            value = torch.cat([projection for projection in projections if projection is not None])
            key = f"{query[1]}.attn.in_proj_{query[2]}"
        for huggingface, openclip in _NAMES.items():
            key = key.replace(huggingface, openclip)
        weights[key] = value
    return weights

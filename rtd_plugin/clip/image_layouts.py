"""A CLIP image tower's state dict in Hugging Face's layout (`CLIPVisionModelWithProjection`), as open_clip's."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_NAMES = {
    "vision_model.embeddings.class_embedding": "class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "positional_embedding",
    "vision_model.pre_layrnorm": "ln_pre",  # spelt so
    "vision_model.post_layernorm": "ln_post",
    "vision_model.encoder.layers.": "transformer.resblocks.",
    ".layer_norm1.": ".ln_1.",
    ".layer_norm2.": ".ln_2.",
    ".self_attn.out_proj.": ".attn.out_proj.",
    ".mlp.fc1.": ".mlp.c_fc.",
    ".mlp.fc2.": ".mlp.c_proj.",
}
_PROJECTION = "visual_projection.weight"
_QUERY = re.compile(r"(.*)\.self_attn\.q_proj\.(weight|bias)")


def image_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image tower's weights by open_clip's names, from a state dict with either layout's names.

    Keys that neither knows are left for whoever loads the weights to complain of.
    """
    if _PROJECTION not in state:
        return {key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}
    found = {"proj": state[_PROJECTION].T.contiguous()}
    for key, value in state.items():
        if not key.startswith("vision_model.") or key.endswith("position_ids") or re.search(r"\.[kv]_proj\.", key):
            continue
        if query := _QUERY.fullmatch(key):
            parts = [state.get(key.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
            value = torch.cat([part for part in parts if part is not None])
            key = f"{query[1]}.attn.in_proj_{query[2]}"
        for theirs, ours in _NAMES.items():
            key = key.replace(theirs, ours)
        found[key] = value
    return found

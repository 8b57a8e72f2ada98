"""Composes two queries with the miniature's CLIP and prints their features."""

import json
from pathlib import Path

import open_clip
import rtd_recipes
import torch
from safetensors.torch import load_file
from trident.query import encode_query

miniature = Path(rtd_recipes.__file__).parent / "miniature"
model = open_clip.CLIP(**json.loads((miniature / "rtd-miniature.json").read_text()))
model.load_state_dict(load_file(miniature / "clip.safetensors"))
texts = open_clip.tokenize(["a photo of * , is purple", "a photo of * , has a green background"])
tokens = torch.linspace(-0.1, 0.1, 2 * 3 * 128).reshape(2, 3, 128)
with torch.no_grad():
    print(json.dumps(encode_query(model.eval(), texts, tokens).tolist()))

"""The text tower's settings in transformers' `config.json`.

transformers writes only what differs from its defaults, and reads a file as `CLIPModel.from_pretrained` does: a whole
CLIP has its text tower's settings under `text_config`, or, in files of 2022 and 2023, under `text_config_dict`, which
overrides `text_config` with its defaults too. The default values are those of transformers' `CLIPTextConfig`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtd_plugin.clip.tokens import END, START
from rtd_plugin.clip.tower import ACTIVATIONS, TextTower
from rtd_plugin.errors import RTDError
from rtd_plugin.files import read_json

CONFIG_FILE = "config.json"
MODEL_TYPES = ("clip", "clip_text_model")
LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True)
class TextConfig:
    """Settings of a text tower, with the default values of transformers.

    Attributes:
        activation: "gelu" or "quick_gelu".
        heads: number of attention heads.
        width: of the residual stream, W.
        layers: number of transformer blocks.
    """

    activation: str = "quick_gelu"
    heads: int = 8
    width: int = 512
    layers: int = 12


KEYS = {
    "activation": "hidden_act",
    "heads": "num_attention_heads",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
}


def read_text_config(file: Path) -> TextConfig:
    """Read the text tower's settings from a `config.json` of a `CLIPModel`, `CLIPTextModel` or one with projection.

    Raises:
        RTDError: the file is not readable, or not the configuration of a text tower like CLIP's.
    """
    config = read_json(file)
    model_type = config.get("model_type", MODEL_TYPES[0])
    if model_type not in MODEL_TYPES:
        raise RTDError(f"{file}: the configuration of a model of type {model_type!r}, not of a CLIP")
    text = config
    for key in ("text_config", "text_config_dict"):
        if config.get(key) is not None:
            text = config[key]
    if not isinstance(text, dict):
        raise RTDError(f"{file}: its text_config is not a JSON object")
    if text.get("layer_norm_eps", LAYER_NORM_EPS) != LAYER_NORM_EPS:
        raise RTDError(
            f"{file}: layer_norm_eps is {text['layer_norm_eps']}, but CLIP's text tower has {LAYER_NORM_EPS}"
        )
    values = {name: text[key] for name, key in KEYS.items() if key in text}
    for name, value in values.items():
        expected = str if name == "activation" else int
        if type(value) is not expected or (expected is int and value < 1):
            raise RTDError(
                f"{file}: {KEYS[name]} is {value!r}, not a {'name' if expected is str else 'positive integer'}"
            )
    settings = TextConfig(**values)
    if settings.activation not in ACTIVATIONS:
        raise RTDError(f"{file}: activation {settings.activation!r} is not one of {', '.join(ACTIVATIONS)}")
    return settings


def build_text_config(tower: TextTower) -> dict[str, Any]:
    """Return the `config.json` of a `CLIPTextModelWithProjection` of the tower's sizes."""
    return {
        "architectures": ["CLIPTextModelWithProjection"],
        "model_type": "clip_text_model",
        "vocab_size": len(tower.token_embedding.weight),
        "max_position_embeddings": tower.context_length,
        "hidden_size": tower.width,
        "intermediate_size": tower.state_dict()["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        "num_hidden_layers": len(tower.transformer.resblocks),
        "num_attention_heads": tower.heads,
        "hidden_act": tower.activation,
        "projection_dim": tower.features,
        "layer_norm_eps": LAYER_NORM_EPS,
        "bos_token_id": START,
        "eos_token_id": END,
        "pad_token_id": END,
    }

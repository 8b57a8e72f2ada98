"""The towers' settings in transformers' `config.json`.

transformers writes only what differs from its defaults, and reads a file as `CLIPModel.from_pretrained` does: a whole
CLIP has its text tower's settings under `text_config`, or, in files of 2022 and 2023, under `text_config_dict`, which
overrides all of `text_config`; its image tower's are under `vision_config` or `vision_config_dict`. The default values
are those of transformers' `CLIPTextConfig` and `CLIPVisionConfig`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from rtd_plugin.clip.layouts import detect_layout, read_sizes
from rtd_plugin.clip.tokens import END, START
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.errors import RTDError
from rtd_plugin.regular_files import read_json
from rtd_plugin.validation import describe_error

CONFIG_FILE = "config.json"
LAYER_NORM_EPS = 1e-5


class TextConfig(BaseModel):
    """Settings of a text tower by their keys in `config.json`, with the default values of transformers.

    Attributes:
        tower: "text" or "vision", as in the keys.
        activation: "gelu" or "quick_gelu".
        heads: number of attention heads.
        width: of the residual stream, W.
        layers: number of transformer blocks.
        layer_norm_eps: the constant in layer norms' denominators; CLIP's towers have 1e-5.
    """

    tower: ClassVar[str] = "text"
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    activation: Literal["gelu", "quick_gelu"] = Field("quick_gelu", alias="hidden_act")
    heads: PositiveInt = Field(8, alias="num_attention_heads")
    width: PositiveInt = Field(512, alias="hidden_size")
    layers: PositiveInt = Field(12, alias="num_hidden_layers")
    layer_norm_eps: float = LAYER_NORM_EPS


class VisionConfig(TextConfig):
    """Settings of an image tower, as `TextConfig`."""

    tower: ClassVar[str] = "vision"

    heads: PositiveInt = Field(12, alias="num_attention_heads")
    width: PositiveInt = Field(768, alias="hidden_size")


Config = TypeVar("Config", bound=TextConfig)


def read_config(file: Path, kind: type[Config]) -> Config:
    """Read a tower's settings from the `config.json` of a whole CLIP or of the tower.

    Raises:
        RTDError: the file is not readable, or not the configuration of a tower like CLIP's.
    """
    config = read_json(file)
    model_type = config.get("model_type", "clip")
    if model_type not in ("clip", f"clip_{kind.tower}_model"):
        raise RTDError(f"{file}: the configuration of a model of type {model_type!r}, not of a CLIP {kind.tower} tower")
    values: Any = config
    for key in (f"{kind.tower}_config", f"{kind.tower}_config_dict"):
        if config.get(key) is not None:
            values = config[key]
    try:
        settings = kind.model_validate(values)
    except ValidationError as error:
        problem = describe_error(error)
        raise RTDError(f"{file}: {problem.key or f'{kind.tower}_config'}: {problem.sentence}") from error
    if settings.layer_norm_eps != LAYER_NORM_EPS:
        raise RTDError(
            f"{file}: layer_norm_eps is {settings.layer_norm_eps}, but CLIP's {kind.tower} towers have {LAYER_NORM_EPS}"
        )
    return settings


def find_text_config(file: Path, state: Mapping[str, Any]) -> TextConfig | None:
    """Read the configuration beside weights in Hugging Face's layout; None for another layout or without one.

    Raises:
        RTDError: it is broken, or of a tower of another size.
    """
    config = file.parent / CONFIG_FILE
    if detect_layout(state) != "huggingface" or not config.is_file():
        return None
    text, sizes = read_config(config, TextConfig), read_sizes(state)
    if sizes is not None and (sizes.layers, sizes.width) != (text.layers, text.width):
        raise RTDError(f"{sizes.layers} layers of width {sizes.width}; {config} has {text.layers} of {text.width}")
    return text


def find_vision_config(file: Path, state: Mapping[str, Any]) -> VisionConfig | None:
    """Read the configuration of an image tower beside its weights in Hugging Face's layout; None as `find_text_config`.

    Raises:
        RTDError: it is broken.
    """
    config = file.parent / CONFIG_FILE
    is_huggingface = any(key.startswith("vision_model.") for key in state)
    return read_config(config, VisionConfig) if is_huggingface and config.is_file() else None


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

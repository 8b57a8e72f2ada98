"""The CLIP models under a run: by open_clip name and tag, or from a local file or folder."""

import difflib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
from open_clip.pretrained import download_pretrained, get_pretrained_cfg
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from PIL import Image
from pydantic import ConfigDict
from torch import Tensor, nn

from rtd_plugin.clip.image_layouts import image_state_dict
from rtd_plugin.clip.layouts import unwrapped
from rtd_plugin.clip.tokens import END
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.errors import RTDError
from rtd_plugin.files import is_jit_archive, read_checkpoint
from rtd_plugin.paths import ModelName, RecipePath

OPENCLIP_CONFIG = "open_clip_config.json"
WEIGHT_FILES = ("open_clip_model.safetensors", "model.safetensors", "open_clip_pytorch_model.bin", "pytorch_model.bin")

# Settings of open_clip's text towers that make another thing of them, with CLIP's values. Pooling "last" and the other
# tokenizers' ids are not those of `TextTower`; what adds weights is noticed by its keys.
PLAIN_TEXT_TOWER = {
    "hf_model_name": None,
    "hf_tokenizer_name": None,
    "embed_cls": False,
    "no_causal_mask": False,
    "pool_type": "argmax",
    "proj_type": "linear",
    "norm_kwargs": None,
    "act_kwargs": None,
    "scaled_cosine_attn": False,
}


@dataclass(frozen=True)
class ImageEncoder:
    """CLIP's image tower with its preprocessing."""

    visual: nn.Module
    preprocess: Callable[[Image.Image], Tensor]

    def __call__(self, images: Tensor) -> Tensor:
        """Preprocessed images (B, 3, H, W) to features (B, D), not normalised."""
        return self.visual(images)


@dataclass(frozen=True)
class Backbone:
    """A CLIP and where its weights are.

    Args:
        model: an open_clip architecture (`ViT-L-14`), or a file in the format of open_clip's model configurations; may
            be None where a checkpoint folder brings its own configuration, or OpenAI's archive its shapes.
        pretrained: open_clip's tag of the weights (`openai`), None for a checkpoint of one's own. With a checkpoint it
            only says how the weights were trained.
        checkpoint: an OpenAI state dict or TorchScript archive, an open_clip checkpoint, or a folder in Hugging Face's
            or open_clip's format. None: the tag's weights, downloaded unless they are in the cache.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    model: ModelName | None = None
    pretrained: str | None = None
    checkpoint: RecipePath | None = None

    @property
    def name(self) -> str:
        """How messages and artifacts call the backbone."""
        if self.model is None:
            return str(self.checkpoint)
        model = Path(self.model).stem if self.model.endswith(".json") else self.model
        return model + (f" ({self.pretrained})" if self.pretrained else "")

    def load_text_tower(self) -> TextTower:
        """The pre-trained text tower ψ₀ in fp32, on the CPU.

        Raises:
            RTDError: the model or its weights cannot be found, read, or are not a CLIP text tower.
        """
        source = self._weights()
        config, state = self._config(source), _read(source)
        settings = _text_settings(config, self._tag(), state, source)
        try:
            tower = TextTower.from_state_dict(state, **settings).float()
        except RTDError as error:
            raise RTDError(f"{source}: {error}") from error
        vocabulary = len(tower.token_embedding.weight)
        if vocabulary <= END:
            raise RTDError(f"{source}: {vocabulary} token embeddings, but CLIP's tokenizer has {END + 1} tokens")
        return tower

    def load_image_encoder(self) -> ImageEncoder:
        """The image tower in fp32, in eval mode, on the CPU, with open_clip's preprocessing for it.

        Raises:
            RTDError: as `load_text_tower`, or the checkpoint lacks an image tower.
        """
        source = self._weights()
        config, state = self._config(source), unwrapped(_read(source))
        weights = image_state_dict(state)
        if config is None or "vision_cfg" not in config or not weights:
            raise RTDError(
                f"{source}: image features need an open_clip architecture (backbone.model) and an image tower in "
                "OpenAI's, open_clip's or Hugging Face's layout"
            )
        settings = _text_settings(config, self._tag(), state, source)
        visual = _image_tower(config, settings["activation"] == "quick_gelu", source)
        try:
            visual.load_state_dict(weights)
        except RuntimeError as error:
            problem = str(error).strip().split("\n")[1 if "\n" in str(error) else 0].strip()
            raise RTDError(f"{source}: not the image tower of {self.name}: {problem}") from error
        preprocessing = merge_preprocess_dict(PreprocessCfg(), self._tag() or {})
        preprocessing = merge_preprocess_dict(preprocessing, config.get("preprocess_cfg", {}))
        preprocessing["size"] = visual.image_size  # as open_clip does, whatever the configuration says
        transform = image_transform_v2(PreprocessCfg(**preprocessing), is_train=False)
        return ImageEncoder(visual.float().eval(), transform)

    def _tag(self) -> dict[str, Any] | None:
        """open_clip's record of the pre-trained weights: where they are, their preprocessing, their activation."""
        if self.pretrained is None or self.model is None:
            return None
        model = _registered(self.model)
        tag = get_pretrained_cfg(model, self.pretrained)
        if not tag:
            tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
            raise RTDError(f"open_clip has no weights {self.pretrained!r} for {self.model}: it has {tags}")
        return tag

    def _config(self, source: Path) -> dict[str, Any] | None:
        """The model's configuration in open_clip's format; None where there is none."""
        folder = source if source.is_dir() else source.parent
        if self.model is None:
            return _read_openclip(folder / OPENCLIP_CONFIG) if (folder / OPENCLIP_CONFIG).is_file() else None
        if self.model.endswith(".json"):
            return _read_openclip(Path(self.model))
        return open_clip.get_model_config(_registered(self.model))

    def _weights(self) -> Path:
        if self.checkpoint is not None:
            if not self.checkpoint.exists():
                raise RTDError(f"{self.checkpoint}: no such file or folder (backbone.checkpoint)")
            return self.checkpoint
        tag = self._tag()
        if tag is None:
            raise RTDError(
                "the backbone has no weights: set backbone.model and backbone.pretrained, or backbone.checkpoint"
            )
        _check_text_tower(open_clip.get_model_config(_registered(self.model)), self.name)  # not after the download
        try:
            return Path(download_pretrained(tag))
        except Exception as error:  # each of several download libraries fails in its own way
            raise RTDError(
                f"{self.name} cannot be downloaded ({str(error).strip().split('. ')[0]}). Where no model hub can be "
                "reached, put its weights on this machine and set backbone.checkpoint to the file or folder"
            ) from error


def _registered(model: str) -> str:
    """The name under which open_clip knows an architecture; it also takes OpenAI's spelling, `ViT-L/14`."""
    name = model if model.endswith(".json") else model.replace("/", "-")
    if name not in open_clip.list_models() and not model.endswith(".json"):
        near = difflib.get_close_matches(name, open_clip.list_models(), n=5, cutoff=0.5)
        raise RTDError(f"open_clip has no architecture {model!r}; close to it are {', '.join(near) or 'none'}")
    return name


def _image_tower(config: Mapping[str, Any], quick_gelu: bool, source: Path) -> nn.Module:
    vision = dict(config["vision_cfg"])
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False  # or timm downloads weights that are replaced at once
    text = {**config["text_cfg"], "layers": 1, "vocab_size": 1}  # not used: as small as can be
    try:
        return open_clip.CLIP(config["embed_dim"], vision, text, quick_gelu=quick_gelu).visual
    except (TypeError, RuntimeError) as error:
        raise RTDError(f"{source}: open_clip cannot build the model it is said to be ({error})") from error


def _text_settings(
    config: Mapping[str, Any] | None, tag: Mapping[str, Any] | None, state: Mapping[str, Any], source: Path
) -> dict[str, Any]:
    """Activation and heads of the text tower: what its weights do not tell."""
    folder = source if source.is_dir() else source.parent
    in_huggingface_layout = any(str(key).startswith("text_model.") for key in state)
    if in_huggingface_layout and (folder / "config.json").is_file():
        return _huggingface_settings(folder / "config.json")
    # Only OpenAI publishes TorchScript archives, and its state dicts tell the resolution; all have that activation.
    by_openai = "input_resolution" in state or (source.is_file() and is_jit_archive(source))
    if config is None:
        if by_openai:
            return {"activation": "quick_gelu", "heads": None}
        raise RTDError(
            f"{source}: the weights alone do not tell their activation and heads: set backbone.model to the open_clip "
            "architecture (and backbone.pretrained to the tag they were published under, if any)"
        )
    _check_text_tower(config, source)
    quick_gelu = by_openai or config.get("quick_gelu", False) or (tag or {}).get("quick_gelu", False)
    return {"activation": "quick_gelu" if quick_gelu else "gelu", "heads": config["text_cfg"].get("heads", 8)}


def _check_text_tower(config: Mapping[str, Any], what: str | Path) -> None:
    """Refuse what open_clip's configuration says is another text tower than CLIP's."""
    text = config["text_cfg"]
    odd = [key for key, value in PLAIN_TEXT_TOWER.items() if text.get(key, value) != value]
    if odd:
        raise RTDError(
            f"{what}: not CLIP's causal text tower with CLIP's tokens ({', '.join(odd)}), which the method needs"
        )


def _huggingface_settings(file: Path) -> dict[str, Any]:
    config = _read_json(file)
    text = config.get("text_config", config)
    if text.get("layer_norm_eps", 1e-5) != 1e-5:
        raise RTDError(f"{file}: layer_norm_eps is {text['layer_norm_eps']}, but CLIP's text tower has 1e-05")
    return {"activation": text.get("hidden_act", "quick_gelu"), "heads": text.get("num_attention_heads", 8)}


def _read(source: Path) -> Mapping[str, Any]:
    if source.is_file():
        return read_checkpoint(source)
    for name in WEIGHT_FILES:
        if (source / name).is_file():
            return read_checkpoint(source / name)
        if (source / f"{name}.index.json").is_file():
            shards = sorted(set(_read_json(source / f"{name}.index.json").get("weight_map", {}).values()))
            return {key: value for shard in shards for key, value in read_checkpoint(source / shard).items()}
    raise RTDError(f"{source}: no weights in this folder: expected one of {', '.join(WEIGHT_FILES)}")


def _read_openclip(file: Path) -> dict[str, Any]:
    """A model configuration, or an `open_clip_config.json` with one in it."""
    whole = _read_json(file)
    config = whole.get("model_cfg", whole)
    for key in ("embed_dim", "text_cfg"):
        if key not in config:
            raise RTDError(f"{file}: not a model configuration of open_clip: it has no {key}")
    return {**config, "preprocess_cfg": whole.get("preprocess_cfg", {})}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RTDError(f"{path}: not a readable JSON file ({error})") from error
    if not isinstance(content, dict):
        raise RTDError(f"{path}: holds no JSON object")
    return content

"""The CLIP models under a run: by open_clip name and tag, or from a local file or folder."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import ConfigDict
from torch import Tensor, nn

from rtd_plugin.checkpoint_files import is_jit_archive, read_checkpoint
from rtd_plugin.checkpoint_parts import split_key
from rtd_plugin.clip.huggingface_config import find_text_config, find_vision_config
from rtd_plugin.clip.image_layouts import convert_image_weights
from rtd_plugin.clip.layouts import TowerSizes, check_finite, read_sizes, select_clip
from rtd_plugin.clip.openclip_files import list_architectures, read_architecture
from rtd_plugin.clip.tokens import END
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.clip.weight_files import find_weights, warn_of_choice
from rtd_plugin.errors import RTDError, locate_errors
from rtd_plugin.paths import ModelName, RecipePath
from rtd_plugin.regular_files import read_json

OPENCLIP_CONFIG = "open_clip_config.json"

# Settings that change what open_clip's text towers compute, with CLIP's values. `TextTower` supports no other pooling
# or tokenizer; settings that add weights are recognised by the weights' keys.
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
    """CLIP's image tower with its preprocessing.

    Attributes:
        visual: the tower.
        preprocess: turns an image into (3, H, W).
        source: the checkpoint that its weights were read from, as `read_checkpoint` takes it; None for no file.
    """

    visual: nn.Module
    preprocess: Callable[[Image.Image], Tensor]
    source: Path | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Encode preprocessed images (B, 3, H, W) to features (B, D), not normalised."""
        return self.visual(images)

    def encode_patches(self, images: Tensor) -> Tensor:
        """Encode preprocessed images to the output of the last block, (B, 1 + P, V), the class token first.

        Raises:
            RTDError: the image tower is not CLIP's vision transformer.
        """
        transformer = getattr(self.visual, "transformer", None)
        if not isinstance(transformer, nn.Module):
            raise RTDError(
                f"patch tokens need a vision transformer, but the image tower is a {type(self.visual).__name__}"
            )
        outputs: list[Tensor] = []
        handle = transformer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        try:
            self.visual(images)
        finally:
            handle.remove()
        return outputs[0]


@dataclass(frozen=True)
class Backbone:
    """A CLIP and the source of its weights.

    Args:
        model: an open_clip architecture (`ViT-L-14`), or a file in the format of open_clip's model configurations; may
            be None if a checkpoint folder has its own configuration, or for OpenAI's archives and state dicts.
        pretrained: open_clip's tag of the weights (`openai`). With a checkpoint it only says how the weights were
            trained.
        checkpoint: an OpenAI state dict or TorchScript archive, an open_clip checkpoint, or a folder in Hugging Face's
            or open_clip's format; `FILE#KEY` for one of several CLIPs in a file. None: the tag's weights, downloaded
            unless they are in open_clip's cache.

    Example:
        >>> Backbone("ViT-L-14", "openai").name
        'ViT-L-14 (openai)'
        >>> tower = Backbone(checkpoint=Path("ViT-L-14.pt")).load_text_tower()  # doctest: +SKIP
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    model: ModelName | None = None
    pretrained: str | None = None
    checkpoint: RecipePath | None = None

    @property
    def name(self) -> str:
        """The backbone's name in messages and artifacts."""
        if self.model is None:
            return str(self.checkpoint)
        model = Path(self.model).stem if self.model.endswith(".json") else self.model
        return model + (f" ({self.pretrained})" if self.pretrained else "")

    def load_text_tower(self) -> TextTower:
        """Load the pre-trained text tower ψ₀ in fp32, on the CPU.

        Raises:
            RTDError: the model or its weights are unknown, missing or damaged, the weights are not those of a CLIP text
                tower, or those of another architecture than `model`.
        """
        source = self._find_weights()
        config, checkpoint = self._find_config(source), read_checkpoint(source)
        with locate_errors(source):
            warn_of_choice(source, checkpoint)
            state = select_clip(checkpoint)
            activation, heads = _find_text_settings(config, self._find_tag(), state, source)
            if config is not None:
                _check_sizes(read_sizes(state), heads, config, self.name)
            tower = TextTower.from_state_dict(state, activation=activation, heads=heads).float()
            vocabulary = len(tower.token_embedding.weight)
            if vocabulary <= END:
                raise RTDError(f"{vocabulary} token embeddings, but CLIP's tokenizer has {END + 1} tokens")
        return tower

    def load_image_encoder(self) -> ImageEncoder:
        """Load the image tower in fp32, in eval mode, on the CPU, with open_clip's preprocessing for it.

        Raises:
            RTDError: as `load_text_tower`, or the checkpoint lacks an image tower.
        """
        source = self._find_weights()
        config, checkpoint = self._find_config(source), read_checkpoint(source)
        with locate_errors(source):
            state = select_clip(checkpoint)
            weights = convert_image_weights(state)
            if config is None or "vision_cfg" not in config or not weights:
                raise RTDError(
                    "image features need an open_clip architecture (backbone.model) and an image tower in "
                    "OpenAI's, open_clip's or Hugging Face's layout"
                )
            if vision := find_vision_config(source, state):
                _check_image_heads(vision.heads, config["vision_cfg"], self.name)
            text_activation, _ = _find_text_settings(config, self._find_tag(), state, source)
            activation = vision.activation if vision else text_activation
            visual = _build_image_tower(config, activation == "quick_gelu")
            check_finite(weights)
            try:
                visual.load_state_dict(weights)
            except RuntimeError as error:
                problem = str(error).strip().split("\n")[1 if "\n" in str(error) else 0].strip()
                raise RTDError(f"not the image tower of {self.name}: {problem}") from error
        from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict

        preprocessing = merge_preprocess_dict(PreprocessCfg(), self._find_tag() or {})
        preprocessing = merge_preprocess_dict(preprocessing, config.get("preprocess_cfg", {}))
        preprocessing["size"] = visual.image_size  # like open_clip, which ignores the configuration's size
        transform = image_transform_v2(PreprocessCfg(**preprocessing), is_train=False)
        return ImageEncoder(visual.float().eval(), transform, source)

    def _find_tag(self) -> dict[str, Any] | None:
        """Return open_clip's record of the pre-trained weights: their source, preprocessing and activation."""
        if self.pretrained is None or self.model is None:
            return None
        from open_clip import pretrained  # imported late: it takes seconds, and local weights do not need it

        model = _find_architecture(self.model)
        tag = pretrained.get_pretrained_cfg(model, self.pretrained)
        if not tag:
            tags = ", ".join(pretrained.list_pretrained_tags_by_model(model)) or "none"
            raise RTDError(f"open_clip has no weights {self.pretrained!r} for {self.model}: it has {tags}")
        return tag

    def _find_config(self, source: Path) -> dict[str, Any] | None:
        """Return the model's configuration in open_clip's format, None without one."""
        if self.model is None:
            file = source.with_name(OPENCLIP_CONFIG)
            return _read_openclip_config(file) if file.is_file() else None
        if self.model.endswith(".json"):
            return _read_openclip_config(Path(self.model))
        return read_architecture(_find_architecture(self.model))

    def _find_weights(self) -> Path:
        """Return the file of the weights, which may have to be downloaded."""
        if self.checkpoint is not None:
            return find_weights(self.checkpoint)
        tag = self._find_tag()
        if tag is None or self.model is None:
            raise RTDError(
                "the backbone has no weights: set backbone.model and backbone.pretrained, or backbone.checkpoint"
            )
        # Before the download.
        _check_text_tower(read_architecture(_find_architecture(self.model)), self.name)
        from open_clip import pretrained

        try:
            return Path(pretrained.download_pretrained(tag))
        except Exception as error:  # each of several download libraries has its own exceptions
            raise RTDError(
                f"{self.name} cannot be downloaded ({str(error).strip().split('. ')[0]}). Without access to a model "
                "hub, copy its weights to this machine and set backbone.checkpoint to the file or folder"
            ) from error


def _find_architecture(model: str) -> str:
    """Return open_clip's name of an architecture, which may be given in OpenAI's spelling, `ViT-L/14`."""
    name = model if model.endswith(".json") else model.replace("/", "-")
    if not model.endswith(".json") and name not in list_architectures():
        close = difflib.get_close_matches(name, list_architectures(), n=5, cutoff=0.5)
        raise RTDError(f"open_clip has no architecture {model!r}; the closest are {', '.join(close) or 'none'}")
    return name


def _build_image_tower(config: Mapping[str, Any], quick_gelu: bool) -> nn.Module:
    import open_clip  # imported late, as above

    try:
        vision = dict(config["vision_cfg"])
        if "timm_model_name" in vision:
            vision["timm_model_pretrained"] = False  # keeps timm from downloading weights that are replaced below
        text = {**config["text_cfg"], "layers": 1, "vocab_size": 1}  # not used, so as small as possible
        return open_clip.CLIP(config["embed_dim"], vision, text, quick_gelu=quick_gelu).visual
    except Exception as error:  # invalid sizes can fail anywhere in open_clip
        raise RTDError(f"open_clip cannot build the configured model ({error})") from error


def _find_text_settings(
    config: Mapping[str, Any] | None, tag: Mapping[str, Any] | None, state: Mapping[str, Any], source: Path
) -> tuple[str, int | None]:
    """Return activation and heads of a text tower, which its weights lack; heads None for one per 64 channels.

    Raises:
        RTDError: they are not known, or the text tower is not CLIP's.
    """
    if text := find_text_config(source, state):
        return text.activation, text.heads
    # Only OpenAI publishes TorchScript archives, and state dicts with the resolution; all have this activation.
    by_openai = "input_resolution" in state or is_jit_archive(split_key(source)[0])
    if config is None:
        if by_openai:
            return "quick_gelu", None
        raise RTDError(
            "the weights do not determine activation and heads: set backbone.model to the open_clip "
            "architecture (and backbone.pretrained to the tag they were published under, if any)"
        )
    _check_text_tower(config, source)
    quick_gelu = by_openai or config.get("quick_gelu", False) or (tag or {}).get("quick_gelu", False)
    return "quick_gelu" if quick_gelu else "gelu", _read_heads(config)


def _read_heads(config: Mapping[str, Any]) -> int:
    return config["text_cfg"].get("heads", 8)  # open_clip's default


def _check_text_tower(config: Mapping[str, Any], name: str | Path) -> None:
    """Refuse configurations of open_clip whose text tower is not CLIP's."""
    text = config["text_cfg"]
    if not isinstance(text, Mapping):
        raise RTDError(f"{name}: text_cfg has to be an object: name an open_clip architecture")
    odd = [key for key, value in PLAIN_TEXT_TOWER.items() if text.get(key, value) != value]
    if odd:
        raise RTDError(
            f"{name}: needs CLIP's causal text tower and CLIP's tokens, but has other settings: {', '.join(odd)}"
        )


def _check_sizes(sizes: TowerSizes | None, heads: int | None, config: Mapping[str, Any], name: str) -> None:
    """Refuse weights of another architecture than the configured one: with wrong heads they would load silently."""
    text = config["text_cfg"]
    expected = TowerSizes(text.get("layers", 12), text.get("width", 512), config["embed_dim"])  # open_clip's defaults
    advice = "set backbone.model to the architecture of the checkpoint"
    if sizes is not None and sizes != expected:
        raise RTDError(f"{sizes}; {name} has {expected}: {advice}")
    if heads not in (None, _read_heads(config)):
        raise RTDError(f"{heads} attention heads; {name} has {_read_heads(config)}: {advice}")


def _check_image_heads(heads: int, vision: Mapping[str, Any], name: str) -> None:
    """Refuse an image tower with other attention heads than the configured one, as which it would load silently."""
    expected = vision.get("width", 768) // vision.get("head_width", 64)  # open_clip's defaults
    if heads != expected:
        raise RTDError(
            f"{heads} attention heads in the image tower; {name} has {expected}: set backbone.model to the "
            "architecture of the checkpoint"
        )


def _read_openclip_config(file: Path) -> dict[str, Any]:
    """Read a model configuration, or an `open_clip_config.json` with one in it."""
    content = read_json(file)
    config = content.get("model_cfg", content)
    for key in ("embed_dim", "text_cfg"):
        if key not in config:
            raise RTDError(f"{file}: not an open_clip model configuration: it has no {key}")
    return {**config, "preprocess_cfg": content.get("preprocess_cfg", {})}

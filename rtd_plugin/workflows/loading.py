"""What composes queries, loaded: a method, a backbone, the method's projection, and tuned text encoders."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ValidationError
from torch import nn

from rtd_plugin.cache import cache_folder
from rtd_plugin.cli.console import err
from rtd_plugin.clip.backbones import Backbone
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.clip.tuned_encoder import TunedWeights, check_base, read_weights
from rtd_plugin.contract import plugins
from rtd_plugin.contract.adapter import Adapter, load_projection
from rtd_plugin.errors import RTDError, UsageError
from rtd_plugin.evaluation.image_features import ImageFeatures
from rtd_plugin.files import read_checkpoint
from rtd_plugin.paths import CommandLineText, RecipePath
from rtd_plugin.training.run import RECIPE_FILE
from rtd_plugin.training.yaml_lines import NotYAML, load_yaml


class _Named(BaseModel):
    """What a recipe and options name; a recipe's other keys are of no use here."""

    adapter: str
    backbone: Backbone
    projection: RecipePath


@dataclass(frozen=True)
class Setup:
    """All that queries are composed with.

    Attributes:
        adapter: the method.
        backbone: the CLIP.
        projection_file, projection: φ.
        tower: ψ₀, the pre-trained text encoder.
        tuned: files of tuned text encoders, checked, and what loads each.
        images: the image tower with its cache.
    """

    adapter: Adapter
    backbone: Backbone
    projection_file: Path
    projection: nn.Module
    tower: TextTower
    tuned: Mapping[Path, Callable[[], TextTower]]
    images: ImageFeatures

    def to_dict(self) -> dict[str, Any]:
        """What results need to say of it."""
        return {
            "adapter": self.adapter.name,
            "backbone": self.backbone.name,
            "projection": str(self.projection_file),
            "preprocess": self.images.preprocessing,
        }


def load_setup(
    *,
    adapter: str | None,
    projection: Path | None,
    model: str | None,
    pretrained: str | None,
    checkpoint: Path | None,
    recipe: str | None,
    weights: Sequence[Path],
    preprocess: str,
    cache: Path | None,
    workers: int,
    device: str | None,
    miniature: bool = False,
) -> Setup:
    """Load what the options of `setup_options` name.

    Args:
        miniature: whether an adapter alone means its miniature.

    Raises:
        RTDError: something is not named, missing, broken, or does not fit the rest.
    """
    source = _recipe_file(recipe, weights)
    if source is None and miniature and projection is None and adapter is not None:
        source = plugins.list_recipes().get(f"{adapter}-miniature")
    values = _read(source) if source is not None else {}
    options = {"model": model, "pretrained": pretrained, "checkpoint": checkpoint}
    if given := {key: CommandLineText(value) for key, value in options.items() if value is not None}:
        values["backbone"] = given
    if adapter is not None:
        values["adapter"] = adapter
    if projection is not None:
        values["projection"] = CommandLineText(projection)
    named = _named(values, source)

    method = plugins.find_adapter(named.adapter)
    tower = named.backbone.load_text_tower()
    phi = load_projection(method, named.projection, tower.features, tower.width)
    tuned = {}
    for path in weights:
        recorded = read_weights(path)
        _load_tuned(recorded, tower)  # what is wrong shows now, and not after all images are encoded
        if recorded.adapter not in (None, method.name):
            err().print(f"{path}: was tuned for {recorded.adapter}, and is used with {method.name}.", soft_wrap=True)
        tuned[path] = partial(_load_tuned, recorded, tower)
    images = ImageFeatures(
        named.backbone.load_image_encoder(), preprocess, _device(device), cache or cache_folder(), workers
    )
    return Setup(method, named.backbone, named.projection, phi, tower, tuned, images)


def _load_tuned(weights: TunedWeights, base: TextTower) -> TextTower:
    """A tuned text encoder, which has to be tuned from the pre-trained one.

    Raises:
        RTDError: it was tuned from another CLIP.
    """
    file = weights.path
    check_base(weights, base, "the backbone given here has other weights")
    activation, heads = weights.activation or base.activation, weights.heads or base.heads
    tower = TextTower.from_state_dict(read_checkpoint(Path(file)), activation=activation, heads=heads)
    if _sizes(tower) != _sizes(base):
        name, _ = min(_sizes(tower) ^ _sizes(base))
        raise RTDError(f"{file}: a text encoder of another size than the backbone's: they differ in {name}")
    return tower.float().eval().requires_grad_(False)


def _sizes(tower: TextTower) -> set[tuple[str, tuple[int, ...]]]:
    return {(name, tuple(weight.shape)) for name, weight in tower.state_dict().items()}


def _recipe_file(recipe: str | None, weights: Sequence[Path]) -> Path | None:
    if recipe is not None:
        return plugins.find_recipe(recipe)
    runs = (path if path.is_dir() else path.parent for path in weights)
    return next((run / RECIPE_FILE for run in runs if (run / RECIPE_FILE).is_file()), None)


def _read(recipe: Path) -> dict[str, Any]:
    try:
        values = load_yaml(recipe.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, NotYAML) as error:
        raise UsageError(f"{recipe}: not a readable recipe ({error})") from error
    if not isinstance(values, dict):
        raise UsageError(f"{recipe}: not a recipe: it should hold keys and values")
    return values


def _named(values: Mapping[str, Any], recipe: Path | None) -> _Named:
    options = {"adapter": "--adapter NAME", "backbone": "--model and --pretrained, or --checkpoint"}
    for key in ("adapter", "backbone", "projection"):
        if values.get(key) is None:
            option = options.get(key, "--projection FILE, the method's own checkpoint")
            raise UsageError(f"{f'{recipe}: no {key}' if recipe else f'no {key} is named'}: pass {option}")
    folder = recipe.parent.absolute() if recipe is not None else Path.cwd()
    try:
        return _Named.model_validate(values, context={"folder": folder})
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise UsageError(f"{recipe or 'the options'}: {where}: {problem['msg']}") from error


def _device(name: str | None) -> torch.device:
    if name is None:
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name}: torch cannot use it here") from error

"""Loads the models of queries: a method, a backbone, the method's projection, and tuned text encoders."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from pydantic import BaseModel, ValidationError
from torch import nn

from rtd_plugin.cache import cache_folder
from rtd_plugin.clip.backbones import Backbone
from rtd_plugin.clip.layouts import read_sizes
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.clip.tuned_encoder import TunedWeights, check_base, read_weights
from rtd_plugin.contract import plugins
from rtd_plugin.contract.adapter import Adapter, load_projection
from rtd_plugin.contract.recipe_files import RecipeFile
from rtd_plugin.errors import RTDError, UsageError
from rtd_plugin.evaluation.image_features import ImageFeatures, Preprocessing
from rtd_plugin.evaluation.precision import Precision
from rtd_plugin.hub import find_run
from rtd_plugin.paths import CommandLineText, ProjectionFiles
from rtd_plugin.training.run import RECIPE_FILE
from rtd_plugin.training.yaml_lines import read_values
from rtd_plugin.validation import describe_error

if TYPE_CHECKING:
    from typing_extensions import Unpack

_log = logging.getLogger(__name__)


class BackboneOptions(TypedDict, total=False):
    """Options of `load_models` except the tuned text encoders.

    Attributes:
        adapter: name of the method.
        projection: the method's projection checkpoint; several files as a mapping of the adapter's `projection_files`.
        model: the backbone's architecture in open_clip.
        pretrained: open_clip's tag of the backbone's weights.
        checkpoint: the backbone's weights as a local file instead.
        recipe: a recipe, by name or file, that names adapter, backbone and projection.
        preprocess: "clip" (default), or "targetpad", which pads long images first.
        cache: folder for image features; by default the cache folder.
        workers: threads that read images; by default one for each core.
        device: where to encode, such as "cuda:1"; by default a GPU if there is one.
        precision: in which to encode: "fp32", "tf32" or "bf16"; by default TF32 on a GPU, else fp32.
    """

    adapter: str | None
    projection: str | Path | Mapping[str, str | Path] | None
    model: str | None
    pretrained: str | None
    checkpoint: str | Path | None
    recipe: str | None
    preprocess: Preprocessing
    cache: str | Path | None
    workers: int | None
    device: str | None
    precision: Precision | None


class ModelOptions(BackboneOptions, total=False):
    """Options of `load_models`, also of `evaluate` and `search`.

    Attributes:
        weights: tuned text encoders: a run's folder, a file in any layout, or `hf://USER/NAME[@REVISION]` on the Hub. A
            run also determines the other options.
    """

    weights: Sequence[str | Path]


class Sources(BaseModel):
    """The models that a recipe and options name; a recipe's other keys are ignored."""

    adapter: str
    backbone: Backbone
    projection: ProjectionFiles


@dataclass(frozen=True)
class Models:
    """The models that compose and encode queries.

    Attributes:
        adapter: the method.
        backbone: the CLIP.
        projection_file, projection: φ.
        tower: ψ₀, the pre-trained text encoder, in fp32.
        tuned: a function for each tuned text encoder that loads it, by its path; all have been checked.
        images: the image tower with its cache.
    """

    adapter: Adapter
    backbone: Backbone
    projection_file: Path | dict[str, Path]
    projection: nn.Module
    tower: TextTower
    tuned: Mapping[Path, Callable[[], TextTower]]
    images: ImageFeatures

    def to_dict(self) -> dict[str, Any]:
        """Return the names that results record."""
        return {
            "adapter": self.adapter.name,
            "backbone": self.backbone.name,
            "projection": (
                {name: str(path) for name, path in self.projection_file.items()}
                if isinstance(self.projection_file, dict)
                else str(self.projection_file)
            ),
            "preprocess": self.images.preprocessing,
            "precision": self.images.precision,
        }


def load_models(*, miniature: bool = False, **options: "Unpack[ModelOptions]") -> Models:
    """Load the models that options name.

    Args:
        miniature: whether an adapter without other options means its miniature.
        options: see `ModelOptions`.

    Raises:
        RTDError: a file is missing, broken, or does not fit the other files.
        UsageError: an option is missing or wrong.
    """
    weights = options.get("weights", ())
    files = [find_run(path) for path in ([weights] if isinstance(weights, str | Path) else weights)]
    recipe_file = _find_recipe_file(options.get("recipe"), files)
    keys = ("adapter", "projection", "model", "pretrained", "checkpoint")
    texts = {key: _mark(value) for key, value in options.items() if key in keys and value is not None}
    if recipe_file is None and miniature and "adapter" in texts and "projection" not in texts:
        recipe_file = plugins.list_recipes().get(f"{texts['adapter']}-miniature")
    values = read_values(recipe_file)[1] if recipe_file is not None else {}
    backbone = {key: texts.pop(key) for key in ("model", "pretrained", "checkpoint") if key in texts}
    sources = _check_sources({**values, **texts, **({"backbone": backbone} if backbone else {})}, recipe_file)

    method = plugins.find_adapter(sources.adapter)
    tower = sources.backbone.load_text_tower()
    phi = load_projection(method, sources.projection, tower.features, tower.width)
    tuned = {}
    for path in files:
        tuned_weights = read_weights(path)
        _load_tuned(tuned_weights, tower)  # fails here, before all images are encoded
        if tuned_weights.adapter not in (None, method.name):
            _log.warning("%s: was tuned for %s, and is used with %s.", path, tuned_weights.adapter, method.name)
        tuned[path] = partial(_load_tuned, tuned_weights, tower)
    images = ImageFeatures(
        sources.backbone.load_image_encoder(),
        options.get("preprocess", "clip"),
        _find_device(options.get("device")),
        Path(options.get("cache") or cache_folder()),
        options.get("workers"),
        options.get("precision"),
    )
    return Models(method, sources.backbone, sources.projection, phi, tower, tuned, images)


def find_sources(run: Path) -> Sources:
    """Return what a run's recipe names.

    Raises:
        RTDError: the folder has no recipe.
        UsageError: the recipe is broken.
    """
    recipe = _find_recipe_file(None, [run])
    if recipe is None:
        raise RTDError(
            f"{run}: no {RECIPE_FILE} beside the text encoder, which names its projection: pass a run's folder"
        )
    return _check_sources(read_values(recipe)[1], recipe)


def _mark(value: Any) -> Any:
    return {k: CommandLineText(v) for k, v in value.items()} if isinstance(value, Mapping) else CommandLineText(value)


def _load_tuned(weights: TunedWeights, base: TextTower) -> TextTower:
    """Load a tuned text encoder in fp32.

    Raises:
        RTDError: it was tuned from another CLIP than `base`.
    """
    check_base(weights, base, "the backbone given here has other weights")
    activation, heads = weights.activation or base.activation, weights.heads or base.heads
    tower = TextTower.from_state_dict(weights.read(), activation=activation, heads=heads)
    if differing := _list_shapes(tower) ^ _list_shapes(base):
        name, _ = min(differing)
        sizes, expected = read_sizes(tower.state_dict()), read_sizes(base.state_dict())
        raise RTDError(f"{weights.path}: {sizes}; the backbone has {expected}: they differ in {name}")
    return tower.float().eval().requires_grad_(False)


def _list_shapes(tower: TextTower) -> set[tuple[str, tuple[int, ...]]]:
    return {(name, tuple(weight.shape)) for name, weight in tower.state_dict().items()}


def _find_recipe_file(recipe: str | None, weights: Sequence[Path]) -> RecipeFile | None:
    if recipe is not None:
        return plugins.find_recipe(recipe)
    runs = (path if path.is_dir() else path.parent for path in weights)
    return next((plugins.find_recipe(str(run / RECIPE_FILE)) for run in runs if (run / RECIPE_FILE).is_file()), None)


def _check_sources(values: Mapping[str, Any], recipe: RecipeFile | None) -> Sources:
    options = {"adapter": "--adapter NAME", "backbone": "--model and --pretrained, or --checkpoint"}
    for key in ("adapter", "backbone", "projection"):
        if values.get(key) is None:
            option = options.get(key, "--projection FILE, the method's own checkpoint")
            raise UsageError(f"{f'{recipe}: no {key}' if recipe else f'no {key} is named'}: pass {option}")
    folder = recipe.path.parent.absolute() if recipe is not None else Path.cwd()
    try:
        return Sources.model_validate(values, context={"folder": folder})
    except ValidationError as error:
        problem = describe_error(error)
        raise UsageError(f"{recipe or 'the options'}: {problem.key}: {problem.sentence}") from error


def _find_device(name: str | None) -> torch.device:
    if name is None:
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name}: torch cannot use it here") from error

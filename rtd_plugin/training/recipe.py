"""Recipes: a whole training run as YAML, validated to the last key before anything is loaded."""

import reprlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    InstanceOf,
    PlainSerializer,
    ValidationError,
    field_validator,
    model_serializer,
)

from rtd_plugin.clip.backbones import Backbone
from rtd_plugin.contract import plugins
from rtd_plugin.errors import RTDError, UsageError
from rtd_plugin.evaluation.benchmark import Benchmark
from rtd_plugin.paths import CommandLineText, RecipePath
from rtd_plugin.training.yaml_lines import NotYAML, line_of, load_yaml, read_values
from rtd_plugin.triplets.triplet import TripletSource


def _plain(key: str, part: TripletSource | Benchmark) -> dict[str, Any]:
    return {key: part.name, **part.model_dump(mode="json")}


Source = Annotated[InstanceOf[TripletSource], PlainSerializer(lambda part: _plain("source", part))]
ABenchmark = Annotated[InstanceOf[Benchmark], PlainSerializer(lambda part: _plain("benchmark", part))]


class Keys(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Objective(Keys):
    """RTD's loss and how its batch is made (RTD, section 3); the defaults are the published setting."""

    temperature: float = Field(0.07, gt=0)
    noise_scale: float = Field(0.5, ge=0)
    hard_negatives: bool = True
    concatenation: Literal["projected", "text"] = "projected"
    negatives: Literal["local", "gathered"] = "local"


class Optimizer(Keys):
    """AdamW's settings."""

    learning_rate: float = Field(1e-5, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(0, ge=0)
    max_grad_norm: float | None = Field(None, gt=0)


class Validation(Keys):
    """A benchmark run every so many steps; the tower that is best by `select` becomes the result."""

    every: int = Field(100, gt=0)
    select: str = "recall_at_1"
    benchmark: ABenchmark

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        return {**_plain("benchmark", self.benchmark), "every": self.every, "select": self.select}


class Checkpoints(Keys):
    """How often the run's state is saved, and how many of the latest states are kept."""

    every: int = Field(100, gt=0)
    keep: int = Field(2, gt=0)


class Recipe(Keys):
    """A training run, complete. See `docs/recipes.md` for what each key does."""

    adapter: str
    backbone: Backbone
    projection: RecipePath
    triplets: list[Source] = Field(min_length=1)
    objective: Objective = Objective()
    optimizer: Optimizer = Optimizer()
    steps: int = Field(2000, gt=0)
    batch_size: int = Field(128, gt=1)
    accumulation: int = Field(1, gt=0)
    engine: Literal["fast", "plain"] = "fast"
    activation_checkpointing: bool = False
    compile: bool = False
    precision: Literal["fp32", "bf16", "fp16"] = "fp16"
    shuffle: bool = True
    seed: int = Field(12345, ge=0)
    validation: Validation | None = None
    evaluation: ABenchmark | None = None
    checkpoints: Checkpoints = Checkpoints()
    tracker: str | None = None

    @field_validator("adapter")
    @classmethod
    def _known_adapter(cls, name: str) -> str:
        try:
            return plugins.find_adapter(name).name
        except UsageError as error:
            raise ValueError(str(error)) from error

    @field_validator("tracker")
    @classmethod
    def _known_tracker(cls, name: str | None) -> str | None:
        from accelerate.utils import LoggerType  # slow to import, and needed by few recipes

        known = [str(kind.value) for kind in LoggerType if kind is not LoggerType.ALL]
        if name is not None and name not in known:
            raise ValueError(f"accelerate knows no tracker {name!r}, only {', '.join(known)}")
        return name

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values, complete: `read_recipe` of it gives the same recipe."""
        return self.model_dump(mode="json")


Location = tuple[str | int, ...]  # keys and list numbers on the way to a value
Report = Callable[[Location, str], UsageError]


def read_recipe(recipe: Path | Mapping[str, Any], overrides: Sequence[str] = (), adapter: str | None = None) -> Recipe:
    """Read and validate a recipe; paths in it are relative to its folder, those of overrides to the current one.

    Args:
        recipe: the recipe's file, or its keys and values, whose paths are relative to the current folder.
        overrides: `a.b=value`, the value in YAML; an entry of a list is meant by its number, `triplets.0.path=…`.
        adapter: replaces the recipe's adapter.

    Raises:
        UsageError: a file that is no YAML, or a key or value that does not fit, by name, file and line.
    """
    text, values = (None, dict(recipe)) if isinstance(recipe, Mapping) else read_values(recipe)
    if adapter is not None:
        values["adapter"] = adapter
    for override in overrides:
        values = _overridden(values, override)
    overridden = [override.partition("=")[0].split(".") for override in overrides]

    def report(location: Location, message: str) -> UsageError:
        parts = [str(part) for part in location]
        key = ".".join(parts)
        # An override is to blame for what is wrong with its value, and with a section that it began.
        if any(parts[: len(keys)] == keys or keys[: len(parts)] == parts for keys in overridden):
            return UsageError(f"--set {key}: {message}")
        where = "the recipe" if text is None else f"{recipe}, line {line_of(text, location)}"
        return UsageError(f"{where}: {key}: {message}")

    folder = Path.cwd() if isinstance(recipe, Mapping) else recipe.parent.absolute()
    return _validated(values, folder, report)


def _validated(values: dict[str, Any], folder: Path, report: Report) -> Recipe:
    """Turn the parts that plugins define into objects of their kinds, then all of it into a recipe."""

    def check(kind: type[BaseModel], part: Any, location: Location = ()) -> Any:
        try:
            return kind.model_validate(part, context={"folder": folder})
        except ValidationError as error:
            problem = error.errors()[0]
            location = (*location, *problem["loc"])
            raise report(location, _sentence(problem, location)) from error
        except RTDError as error:
            raise report(location, str(error)) from error

    def plugin_part(part: Any, key: str, find: Callable[[str], type[BaseModel]], location: Location) -> Any:
        """An entry that names its kind under `key`, with the kind's options beside it."""
        if not isinstance(part, dict) or not isinstance(part.get(key), str):
            raise report(location, f"needs {key}: NAME and its options")
        try:
            kind = find(part[key])
        except RTDError as error:
            raise report((*location, key), str(error)) from error
        return check(kind, {name: value for name, value in part.items() if name != key}, location)

    if isinstance(values.get("triplets"), list):
        values["triplets"] = [
            plugin_part(part, "source", plugins.find_triplet_source, ("triplets", number))
            for number, part in enumerate(values["triplets"])
        ]
    validation = values.get("validation")
    if isinstance(validation, dict):
        own = {name: value for name, value in validation.items() if name in ("every", "select")}
        rest = {name: value for name, value in validation.items() if name not in own}
        benchmark = plugin_part(rest, "benchmark", plugins.find_benchmark, ("validation",))
        values["validation"] = {**own, "benchmark": benchmark}
    if values.get("evaluation") is not None:
        values["evaluation"] = plugin_part(values["evaluation"], "benchmark", plugins.find_benchmark, ("evaluation",))
    return check(Recipe, values)


def _sentence(problem: Mapping[str, Any], location: Location) -> str:
    """What pydantic found, for somebody who wrote YAML."""
    match problem["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            return "no such key"
        case kind if kind == "missing" or problem["input"] is None:
            return f"is missing: add it, or pass --set {'.'.join(map(str, location))}=…"
        case "value_error":  # of a validator, whose message says what it found
            return str(problem["ctx"]["error"])
        case "model_type" | "dataclass_type":
            message = "needs keys and values"
        case _:
            message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{message}, found {reprlib.repr(problem['input'])}"


def _overridden(values: dict[str, Any], override: str) -> dict[str, Any]:
    """A recipe's values with one of them replaced."""
    name, value = parse_override(override)

    def replaced(place: Any, keys: Sequence[str]) -> Any:
        # Copies on the way: an alias in the YAML file makes one object of two places.
        if not keys:
            return value
        key, *rest = keys
        if isinstance(place, list):
            if not key.isdecimal() or int(key) >= len(place):
                raise UsageError(f"--set {override}: {key!r} is not the number of one of {len(place)} entries, from 0")
            number = int(key)
            return [*place[:number], replaced(place[number], rest), *place[number + 1 :]]
        if not isinstance(place, dict | NoneType):
            raise UsageError(f"--set {override}: {place!r} is a value, and has no key {key!r}")
        return {**(place or {}), key: replaced((place or {}).get(key), rest)}

    return replaced(values, name.split("."))


def parse_override(override: str) -> tuple[str, Any]:
    """The key and value of `--set key=value`, the value in YAML.

    Raises:
        UsageError: it is something else.
    """
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise UsageError(f"--set {override}: expected key=value")
    try:
        return name, _from_command_line(load_yaml(text))
    except NotYAML as error:
        raise UsageError(f"--set {override}: the value is not YAML: {error}") from error


def _from_command_line(value: Any) -> Any:
    """Mark all texts in a value: a path among them is relative to the current folder."""
    if isinstance(value, dict):
        return {key: _from_command_line(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_from_command_line(part) for part in value]
    return CommandLineText(value) if isinstance(value, str) else value

"""Recipes: a whole training run as YAML, validated completely before anything is loaded."""

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
    PlainValidator,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from rtd_plugin.clip.backbones import Backbone
from rtd_plugin.contract import plugins
from rtd_plugin.contract.recipe_files import RecipeFile
from rtd_plugin.errors import RTDError, UsageError
from rtd_plugin.evaluation.benchmark import Benchmark
from rtd_plugin.paths import CommandLineText, ProjectionFiles
from rtd_plugin.training.yaml_lines import NotYAML, line_of, load_yaml, read_values
from rtd_plugin.triplets.triplet import TripletSource
from rtd_plugin.validation import describe_error


def _dump(key: str, item: TripletSource | Benchmark) -> dict[str, Any]:
    return {key: item.name, **item.model_dump(mode="json")}


Source = Annotated[InstanceOf[TripletSource], PlainSerializer(lambda source: _dump("source", source))]
ABenchmark = Annotated[InstanceOf[Benchmark], PlainSerializer(lambda benchmark: _dump("benchmark", benchmark))]


MAX_COUNT = 10**9  # of steps, and of what is counted in steps; far more than any run takes
MAX_ACCUMULATION = 10_000  # batches of a step, which are in memory together
MAX_DEPTH = 50  # of a key
SEARCH_HOLDS_OUT = 0.1  # share of the triplets, if a learning rate is to be chosen without a validation


class Keys(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Objective(Keys):
    """RTD's loss and how its batch is made (RTD, section 3); the defaults are the published setting."""

    temperature: float = Field(0.07, gt=0)
    noise_scale: float = Field(0.5, ge=0)
    hard_negatives: bool = True
    concatenation: Literal["projected", "text"] = "projected"
    negatives: Literal["local", "gathered"] = "local"


class Wording(Keys):
    """What training does with the words of conditions; the defaults are the published setting.

    Attributes:
        noise: the share of a condition's words in neither caption that are replaced by random ones, drawn for each
            batch.
        sample: whether an epoch takes one wording of each request, that is of the triplets that share both captions.
        consistency: at the last step, the weight of the distance between the queries of two wordings of a request.
    """

    noise: float = Field(0.0, ge=0, lt=1)
    sample: bool = False
    consistency: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _check_consistency(self) -> "Wording":
        if self.consistency and not self.sample:
            raise ValueError("consistency compares two wordings of a request, so it needs sample: true")
        return self


_Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_RATE, _RATES = TypeAdapter(_Rate), TypeAdapter(Annotated[list[_Rate], Field(min_length=2)])


def _read_rate(value: Any) -> Any:
    if value == "auto":
        return "auto"
    if isinstance(value, list | tuple):
        rates = sorted(set(_RATES.validate_python(value)))
        if len(rates) == 1:
            raise ValueError("expected auto, a number, or several, found one several times")
        return rates
    return _RATE.validate_python(value)


class Optimizer(Keys):
    """AdamW's settings.

    Attributes:
        learning_rate: a number, or what to choose it from by validation: several numbers, or "auto".
    """

    learning_rate: Annotated[float | Literal["auto"] | list[float], PlainValidator(_read_rate)] = 1e-5
    weight_decay: float = Field(0.01, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(0, ge=0, le=MAX_COUNT)
    max_grad_norm: float | None = Field(None, gt=0)

    @property
    def rate(self) -> float:
        """The learning rate, which has been chosen."""
        assert isinstance(self.learning_rate, float)
        return self.learning_rate

    @property
    def is_searched(self) -> bool:
        """Whether the learning rate is still to be chosen."""
        return not isinstance(self.learning_rate, float)


class Validation(Keys):
    """What is measured every so many steps; the tower that is best by `select` becomes the result.

    Attributes:
        every, select: how often, and by which metric.
        benchmark: what is measured, or
        triplets: the share of the triplets that is held out of training and measured.
    """

    every: int = Field(100, gt=0, le=MAX_COUNT)
    select: str = "recall_at_1"
    benchmark: ABenchmark | None = None
    triplets: float | None = Field(None, gt=0, lt=1)

    @model_serializer
    def _flatten(self) -> dict[str, Any]:
        measure = {"triplets": self.triplets} if self.benchmark is None else _dump("benchmark", self.benchmark)
        return {**measure, "every": self.every, "select": self.select}


class Checkpoints(Keys):
    """How often the run's state is saved, and how many of the latest states are kept."""

    every: int = Field(100, gt=0, le=MAX_COUNT)
    keep: int = Field(2, gt=0, le=MAX_COUNT)


class Recipe(Keys):
    """A complete training run. See `docs/recipes.md` for what each key does."""

    adapter: str
    backbone: Backbone
    projection: ProjectionFiles
    triplets: list[Source] = Field(min_length=1)
    objective: Objective = Objective()
    wording: Wording = Wording()
    optimizer: Optimizer = Optimizer()
    steps: int = Field(2000, gt=0, le=MAX_COUNT)
    batch_size: int = Field(128, gt=1, le=MAX_COUNT)
    accumulation: int = Field(1, gt=0, le=MAX_ACCUMULATION)
    engine: Literal["fast", "plain"] = "fast"
    activation_checkpointing: bool = False
    compile: bool = False
    precision: Literal["fp32", "bf16", "fp16"] = "fp16"
    gradient_precision: Literal["fp32", "bf16"] = "fp32"
    shuffle: bool = True
    seed: int = Field(12345, ge=0)
    validation: Validation | None = None
    evaluation: ABenchmark | None = None
    checkpoints: Checkpoints = Checkpoints()
    tracker: str | None = None

    @field_validator("adapter")
    @classmethod
    def _check_adapter(cls, name: str) -> str:
        try:
            return plugins.find_adapter(name).name
        except UsageError as error:
            raise ValueError(str(error)) from error

    @field_validator("tracker")
    @classmethod
    def _check_tracker(cls, name: str | None) -> str | None:
        from accelerate.utils import LoggerType  # slow to import, and needed by few recipes

        trackers = [str(tracker.value) for tracker in LoggerType if tracker is not LoggerType.ALL]
        if name is not None and name not in trackers:
            raise ValueError(f"accelerate has no tracker {name!r}, only {', '.join(trackers)}")
        return name

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain values, complete: `read_recipe` of it gives the same recipe."""
        return self.model_dump(mode="json")


Location = tuple[str | int, ...]
Report = Callable[[Location, str], UsageError]


def read_recipe(
    recipe: Path | RecipeFile | Mapping[str, Any], overrides: Sequence[str] = (), adapter: str | None = None
) -> Recipe:
    """Read and validate a recipe; paths in it are relative to its folder, those of overrides to the current one.

    Args:
        recipe: the recipe's file, or its keys and values, whose paths are relative to the current folder.
        overrides: `a.b=value`, the value in YAML; an entry of a list is given by its index, `triplets.0.path=…`.
        adapter: replaces the recipe's adapter.

    Raises:
        UsageError: the file is not YAML, or a key or value does not fit; the message has key, file and line.

    Example:
        >>> from rtd_plugin.contract.plugins import find_recipe
        >>> recipe = read_recipe(find_recipe("lincir-miniature"), ["optimizer.learning_rate=1e-4"])
        >>> recipe.steps, recipe.optimizer.learning_rate
        (640, 0.0001)
    """
    text, values = (None, dict(recipe)) if isinstance(recipe, Mapping) else read_values(recipe)
    if adapter is not None:
        values["adapter"] = adapter
    for override in overrides:
        values = _override(values, override)
    overridden = [override.partition("=")[0].split(".") for override in overrides]

    def report(location: Location, message: str) -> UsageError:
        steps = [str(step) for step in location]
        key = ".".join(steps)
        # Errors in the value of an override, or in a section that it created, name the override.
        if any(steps[: len(keys)] == keys or keys[: len(steps)] == steps for keys in overridden):
            return UsageError(f"--set {key}: {message}")
        where = "the recipe" if text is None else f"{recipe}, line {line_of(text, location)}"
        return UsageError(f"{where}: {key}: {message}")

    if isinstance(recipe, Mapping):
        folder = Path.cwd()
    else:
        folder = (recipe if isinstance(recipe, Path) else recipe.path).parent.absolute()
    return _validate(values, folder, report)


def _validate(values: dict[str, Any], folder: Path, report: Report) -> Recipe:
    """Turn the entries whose classes plugins register into objects of these, then all values into a recipe."""

    def check(model: type[BaseModel], entry: Any, location: Location = ()) -> Any:
        try:
            return model.model_validate(entry, context={"folder": folder})
        except ValidationError as error:
            problem = describe_error(error)
            location = (*location, *problem.location)
            advice = f": add it, or pass --set {'.'.join(map(str, location))}=…" if problem.is_missing else ""
            raise report(location, problem.sentence + advice) from error
        except RTDError as error:
            raise report(location, str(error)) from error

    def check_entry(entry: Any, key: str, find: Callable[[str], type[BaseModel]], location: Location) -> Any:
        """Check an entry that names its class under `key`, with the options of that class beside it."""
        if not isinstance(entry, dict) or not isinstance(entry.get(key), str):
            raise report(location, f"expected {key}: NAME and its options")
        try:
            model = find(entry[key])
        except RTDError as error:
            raise report((*location, key), str(error)) from error
        return check(model, {name: value for name, value in entry.items() if name != key}, location)

    if isinstance(values.get("triplets"), list):
        values["triplets"] = [
            check_entry(entry, "source", plugins.find_triplet_source, ("triplets", index))
            for index, entry in enumerate(values["triplets"])
        ]
    validation, optimizer = values.get("validation"), values.get("optimizer")
    rate = optimizer.get("learning_rate") if isinstance(optimizer, dict) else None
    if validation is None and (rate == "auto" or isinstance(rate, list | tuple)):
        validation = values["validation"] = {"triplets": SEARCH_HOLDS_OUT}
    if isinstance(validation, dict) and "benchmark" not in validation and validation.get("triplets") is None:
        raise report(("validation",), "needs benchmark: NAME and its options, or triplets: SHARE")
    if isinstance(validation, dict) and "benchmark" in validation:
        settings = {name: value for name, value in validation.items() if name in ("every", "select")}
        options = {name: value for name, value in validation.items() if name not in settings}
        benchmark = check_entry(options, "benchmark", plugins.find_benchmark, ("validation",))
        values["validation"] = {**settings, "benchmark": benchmark}
    if values.get("evaluation") is not None:
        values["evaluation"] = check_entry(values["evaluation"], "benchmark", plugins.find_benchmark, ("evaluation",))
    return check(Recipe, values)


def _override(values: dict[str, Any], override: str) -> dict[str, Any]:
    """Return a recipe's values with one of them replaced."""
    name, value = parse_override(override)
    if name.count(".") > MAX_DEPTH:
        raise UsageError(f"--set {override}: no key is nested so deeply")

    def replace(node: Any, keys: Sequence[str]) -> Any:
        # Copies on the way: with an alias in the YAML file, two keys share one object.
        if not keys:
            return value
        key, *rest = keys
        if isinstance(node, list):
            if not key.isdecimal() or len(key) > 9 or int(key) >= len(node):
                raise UsageError(f"--set {override}: {key!r} is not the index of one of {len(node)} entries, from 0")
            index = int(key)
            return [*node[:index], replace(node[index], rest), *node[index + 1 :]]
        if not isinstance(node, dict | NoneType):
            raise UsageError(f"--set {override}: {node!r} is a value, and has no key {key!r}")
        return {**(node or {}), key: replace((node or {}).get(key), rest)}

    return replace(values, name.split("."))


def parse_override(override: str) -> tuple[str, Any]:
    """Return the key and value of `--set key=value`, the value in YAML.

    Raises:
        UsageError: the text has another form.

    Example:
        >>> parse_override("optimizer.max_grad_norm=1.5")
        ('optimizer.max_grad_norm', 1.5)
    """
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise UsageError(f"--set {override}: expected key=value")
    try:
        return name, _mark_texts(load_yaml(text))
    except NotYAML as error:
        raise UsageError(f"--set {override}: the value is not YAML: {error}") from error


def _mark_texts(value: Any) -> Any:
    """Mark all texts in a value: a path among them is relative to the current folder."""
    if isinstance(value, dict):
        return {key: _mark_texts(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_mark_texts(item) for item in value]
    return CommandLineText(value) if isinstance(value, str) else value

"""The trials of a search for a learning rate: which there are, and the file that holds them, `search/search.json`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from rtd_plugin.errors import RTDError
from rtd_plugin.regular_files import read_bytes
from rtd_plugin.training.recipe import Recipe

SEARCH_FOLDER, SEARCH_FILE = "search", "search.json"
AUTO = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
HIGHER = (3e-3, 1e-2)  # tried one after the other as long as the highest learning rate is the best


class Trial(BaseModel):
    """A learning rate after so many steps.

    Attributes:
        learning_rate, steps: what was tried.
        value: the best value so far of the metric that selects; None if the loss or a weight was not finite.
        step: its step.
    """

    model_config = ConfigDict(extra="forbid")

    learning_rate: float
    steps: int
    value: float | None
    step: int | None


class RateSearch(BaseModel):
    """A search, as its file holds it.

    Attributes:
        candidates: the learning rates as the recipe had them.
        metric: by which trials are compared.
        every: steps between validations.
        processes: how many it began with, since the order of the data depends on it.
        trials: the finished ones, in their order.
        learning_rate: the one that was chosen, None before.
    """

    model_config = ConfigDict(extra="forbid")

    candidates: Literal["auto"] | list[float]
    metric: str
    every: int
    processes: int
    trials: list[Trial] = []
    learning_rate: float | None = None

    def find(self, learning_rate: float, steps: int) -> Trial | None:
        """Return a finished trial."""
        return next((t for t in self.trials if (t.learning_rate, t.steps) == (learning_rate, steps)), None)

    def settle(self, recipe: Recipe) -> Recipe:
        """Return a recipe with the learning rate that was chosen, and the validations that the search had."""
        assert self.learning_rate is not None
        return set_rate(recipe, self.learning_rate, self.every)


@dataclass(frozen=True)
class Rung:
    """One stage of a search.

    Attributes:
        start, steps: how many steps its trials have taken before and after it.
        survivors: how many of them go on, at most.
    """

    start: int
    steps: int
    survivors: int


@dataclass(frozen=True)
class SearchPlan:
    """What a search tries.

    Attributes:
        candidates: learning rates, ascending.
        higher: those that are added while the highest candidate is the best.
        rungs: one after the other.
        every: steps between validations. All rungs end with one, so that a run without a search has the same.
    """

    candidates: Sequence[float]
    higher: Sequence[float]
    rungs: Sequence[Rung]
    every: int


def plan_search(recipe: Recipe) -> SearchPlan:
    """Return what a search for a recipe's learning rate tries.

    Each rung takes as many steps as all before it, and the last ends after half of the recipe's at most.
    """
    rate, validation = recipe.optimizer.learning_rate, recipe.validation
    assert not isinstance(rate, float)
    assert validation is not None
    candidates, higher = (AUTO, HIGHER) if rate == "auto" else (rate, ())
    halvings = max(1, math.ceil(math.log2(len(candidates))))
    share = max(1, recipe.steps >> halvings)
    every = min(validation.every, share)
    first = share // every * every
    ends = [min(first << index, recipe.steps) for index in range(halvings)]
    rungs = [
        Rung(start, end, 2 ** (halvings - index))
        for index, (start, end) in enumerate(zip([0, *ends], ends, strict=False), start=1)
    ]
    return SearchPlan(candidates, higher, rungs, every)


def read_search(folder: Path) -> RateSearch | None:
    """Return the search in a run's folder, None if the run has none.

    Raises:
        RTDError: its file is broken.
    """
    path = folder / SEARCH_FOLDER / SEARCH_FILE
    try:
        return RateSearch.model_validate_json(read_bytes(path)) if path.exists() else None
    except (OSError, ValidationError) as error:
        raise RTDError(f"{path}: broken: start a new run with another --output") from error


def set_rate(recipe: Recipe, rate: float, every: int) -> Recipe:
    """Return a recipe with a learning rate, and so many steps between validations."""
    assert recipe.validation is not None
    optimizer = recipe.optimizer.model_copy(update={"learning_rate": rate})
    validation = recipe.validation.model_copy(update={"every": every})
    return recipe.model_copy(update={"optimizer": optimizer, "validation": validation})


def trial_folder(folder: Path, rate: float) -> Path:
    """Return the folder of a learning rate's trial in the folder of its run."""
    return folder / SEARCH_FOLDER / repr(rate)

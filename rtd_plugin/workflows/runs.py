"""Choose a run: a new one of a recipe, or one in a folder to resume."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtd_plugin.contract import plugins
from rtd_plugin.errors import UsageError
from rtd_plugin.training.recipe import Recipe, read_recipe
from rtd_plugin.training.run import RECIPE_FILE, resume_recipe

RUNS = Path("runs")

RecipeLike = str | Path | Mapping[str, Any]
"""A recipe by name, by file (ending in .yaml or .yml), or as its keys and values."""


@dataclass(frozen=True)
class RunChoice:
    """A run to start or to resume.

    Attributes:
        recipe: as resolved.
        folder: of the run, None for a new one in `RUNS`.
        name: of that new folder.
        resumes: whether the folder holds the run already.
    """

    recipe: Recipe
    folder: Path | None
    name: str
    resumes: bool


def choose_run(
    recipe: RecipeLike | None, adapter: str | None, overrides: Sequence[str], output: Path | None, resume: bool
) -> RunChoice:
    """Find the run and resolve its recipe; the arguments are those of `rtd_plugin.train`.

    Raises:
        UsageError: there is no such recipe or run, a value in it is wrong, or the folder holds another run.
    """
    name = name_run(recipe, adapter)
    if output is not None and not _is_utf8(output):
        raise UsageError(f"{output}: a run's folder needs a name in UTF-8, for safetensors: pass another --output")
    folder = output or (find_newest_run(name) if resume else None)
    if folder is not None and holds_run(folder):
        if not resume:
            raise UsageError(f"{folder}: already holds a run: pass --resume to continue it, or another --output")
        return RunChoice(resume_recipe(folder, overrides, adapter), folder, folder.name, resumes=True)
    if name is None:
        raise UsageError("no run to resume: pass --adapter NAME for its miniature, or --recipe NAME|FILE")
    source = recipe if isinstance(recipe, Mapping) else plugins.find_recipe(str(recipe or name))
    return RunChoice(read_recipe(source, overrides, adapter), folder, name, resumes=False)


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def name_run(recipe: RecipeLike | None, adapter: str | None) -> str | None:
    """Return the name of a recipe, which its runs get too: by default the adapter's miniature; None without both."""
    if adapter is not None:
        plugins.find_adapter(adapter)
    if isinstance(recipe, Mapping):
        return str(recipe.get("adapter", adapter))
    if recipe is not None:
        path = Path(recipe)
        return path.stem if path.suffix in (".yaml", ".yml") else str(recipe)
    if adapter is None:
        return None
    if f"{adapter}-miniature" not in plugins.list_recipes():
        raise UsageError(f"no plugin has a miniature for {adapter}: pass --recipe NAME|FILE")
    return f"{adapter}-miniature"


def holds_run(folder: Path) -> bool:
    """Return whether a folder holds a run.

    Raises:
        UsageError: it holds checkpoints of a run without the run's recipe.
    """
    if (folder / RECIPE_FILE).is_file():
        return True
    if (folder / "checkpoints").exists():
        raise UsageError(f"{folder}: holds checkpoints without their {RECIPE_FILE}: pass another --output")
    return False


def find_newest_run(name: str | None) -> Path | None:
    """Return the folder of the recipe's run that was last started or resumed; of any recipe's if `name` is None."""
    pattern = re.compile(rf"{re.escape(name)}(-\d+)?" if name else ".*")
    recipes = [path for path in RUNS.glob(f"*/{RECIPE_FILE}") if pattern.fullmatch(path.parent.name)]
    return max(recipes, key=lambda path: path.stat().st_mtime).parent if recipes else None

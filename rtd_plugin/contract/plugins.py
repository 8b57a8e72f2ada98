"""Find plugins through the entry-point group `rtd_plugin`, and look up what they register.

>>> from rtd_plugin.contract import plugins
>>> plugins.find_adapter("lincir").prompt.template
'a photo of $ that {condition}'
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import lru_cache, wraps
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

from rtd_plugin.contract import hookspecs
from rtd_plugin.contract.recipe_files import RecipeFile, list_recipe_files
from rtd_plugin.errors import RTDError, UsageError

if TYPE_CHECKING:
    import click

    from rtd_plugin.contract.adapter import Adapter
    from rtd_plugin.evaluation.benchmark import Benchmark
    from rtd_plugin.search.gallery_store import GalleryStore
    from rtd_plugin.triplets.triplet import TripletSource

Item = TypeVar("Item")

ENTRY_POINTS = "rtd_plugin"
REMOVED_SOURCES = {
    "instructpix2pix": "`source: json` reads its keys",
    "llm": "run `rtd-plugin triplets build llm` once, and name the file that it writes with `source: json`",
    "rules": "run `rtd-plugin triplets build rules` once, and name the file that it writes with `source: json`",
}
DISABLE = "RTD_PLUGIN_DISABLE"  # names of plugins to leave out, separated by commas


class PluginManager(pluggy.PluginManager):
    """pluggy's plugin manager, with errors that name the plugin that fails.

    Attributes:
        packages: name and version of the package that each plugin comes from, where there is one.
    """

    def __init__(self) -> None:
        super().__init__(ENTRY_POINTS)
        self.packages: dict[str, str] = {}
        self.add_hookspecs(hookspecs)

    def describe(self, plugin: str) -> str:
        """Return a plugin's name with the package it comes from."""
        return f"{plugin} (of {self.packages[plugin]})" if plugin in self.packages else plugin

    def blame(self, plugin: str, problem: str) -> RTDError:
        """Return an error that names a plugin, and how to leave it out if it comes from a package."""
        advice = f". Leave it out with {DISABLE}={plugin}" if plugin in self.packages else ""
        return RTDError(f"the plugin {self.describe(plugin)} {problem}{advice}")

    @contextmanager
    def name_failures(self, plugin: str, hook: str) -> Iterator[None]:
        """Turn an error that a plugin raises in a hook into an RTDError that names both."""
        try:
            yield
        except RTDError:
            raise
        except Exception as error:  # third-party code may raise anything
            raise self.blame(plugin, f"failed in {hook}: {type(error).__name__}: {error}") from error

    def register(self, plugin: object, name: str | None = None) -> str | None:
        """Register a plugin under a name, by default its class's or module's, and wrap its hooks' errors."""
        name = super().register(plugin, name)
        for caller in self.get_hookcallers(plugin) or ():
            for implementation in caller.get_hookimpls():
                if implementation.plugin is plugin:
                    # `function` is Final for type checkers alone.
                    wrapped = self._wrap(implementation.function, implementation.plugin_name, caller.name)
                    implementation.function = wrapped  # type: ignore[misc]
        return name

    def _wrap(self, function: Callable[..., Any], plugin: str, hook: str) -> Callable[..., Any]:
        @wraps(function)
        def call(*arguments: Any, **keywords: Any) -> Any:
            with self.name_failures(plugin, hook):
                return function(*arguments, **keywords)

        return call


@lru_cache(maxsize=1)
def get_plugin_manager() -> PluginManager:
    """Return this process's plugin manager, with every installed plugin loaded.

    A plugin that implements no hook is logged as a warning.

    Raises:
        RTDError: a plugin cannot be imported, or implements a hook that does not exist or with wrong arguments.
    """
    manager = PluginManager()
    for name in filter(None, (name.strip() for name in os.environ.get(DISABLE, "").split(","))):
        manager.set_blocked(name)
    for entry_point in entry_points(group=ENTRY_POINTS):
        if not manager.is_blocked(entry_point.name):
            _load(manager, entry_point)
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise _describe_misfit(manager, manager.get_name(error.plugin), error) from error
    return manager


def _load(manager: PluginManager, entry_point: EntryPoint) -> None:
    name = entry_point.name
    package = f"{entry_point.dist.name} {entry_point.dist.version}" if entry_point.dist else "an unknown package"
    if manager.has_plugin(name):
        raise RTDError(
            f"two plugins are called {name!r}, one of {manager.packages[name]} and one of {package}: "
            "uninstall one of the two packages"
        )
    manager.packages[name] = package
    try:
        plugin = entry_point.load()
        manager.register(plugin, name)
    except pluggy.PluginValidationError as error:
        raise _describe_misfit(manager, name, error) from error
    except Exception as error:  # importing third-party code may raise anything
        problem = f"cannot be loaded from {entry_point.value}: {type(error).__name__}: {error}"
        raise manager.blame(name, problem) from error
    if not manager.get_hookcallers(plugin):
        problem = f"implements no hook: mark its functions with rtd_plugin.contract.hookimpl in {entry_point.value}"
        logging.getLogger(__name__).warning("the plugin %s %s", manager.describe(name), problem)


def _describe_misfit(manager: PluginManager, name: str | None, error: pluggy.PluginValidationError) -> RTDError:
    return manager.blame(name or type(error.plugin).__name__, f"does not fit: {' '.join(str(error).split())}")


@contextmanager
def use_plugins(*plugins: object) -> Iterator[None]:
    """Register plugins for a `with` block: objects whose methods are marked by `hookimpl`.

    Raises:
        RTDError: as `get_plugin_manager`.
    """
    manager = get_plugin_manager()
    with ExitStack() as stack:
        for plugin in plugins:
            name = type(plugin).__name__
            try:
                manager.register(plugin, name)
                stack.callback(manager.unregister, plugin)
                manager.check_pending()
            except pluggy.PluginValidationError as error:
                raise _describe_misfit(manager, name, error) from error
        yield


def list_adapters() -> dict[str, Adapter]:
    """Return all adapters by name.

    Raises:
        RTDError: a plugin fails, returns something other than adapters, or two return adapters of the same name.
    """
    return _list_named("rtd_adapters", "adapter", check=_check_adapter)


def find_adapter(name: str) -> Adapter:
    """Return an adapter by name.

    Raises:
        UsageError: no adapter has that name.
        RTDError: as `list_adapters`.
    """
    return _pick(list_adapters(), name, "adapter")


def list_commands() -> dict[str, click.Command]:
    """Return the commands that plugins add to the command line, by name: "serve", "triplets build".

    Raises:
        RTDError: a plugin fails, or two register the same name.
    """
    return _list_named("rtd_commands", "command")


def find_triplet_source(name: str) -> type[TripletSource]:
    """Return a class of triplet sources by name.

    Raises:
        UsageError: no triplet source has that name; for one of earlier versions the message names its replacement.
        RTDError: a plugin fails, or two register the same name.
    """
    sources = _list_named("rtd_triplet_sources", "triplet source")
    if name in REMOVED_SOURCES and name not in sources:
        raise UsageError(f"the source {name!r} was removed: {REMOVED_SOURCES[name]}")
    return _pick(sources, name, "triplet source")


def find_benchmark(name: str) -> type[Benchmark]:
    """Return a class of benchmarks by name.

    Raises:
        UsageError: no benchmark has that name.
        RTDError: a plugin fails, or two register the same name.
    """
    return _pick(_list_named("rtd_benchmarks", "benchmark"), name, "benchmark")


def find_gallery_store(path: str) -> GalleryStore:
    """Return the gallery at a path or URI, which need not exist yet.

    Raises:
        UsageError: no plugin has a store for such a path.
        RTDError: a plugin fails.
    """
    store = get_plugin_manager().hook.rtd_gallery_store(path=path)
    if store is None:
        raise UsageError(f"{path}: no plugin has an index with this ending: use a folder that ends in .lance")
    return store


def list_recipes() -> dict[str, RecipeFile]:
    """Return all recipes that plugins ship, by name.

    Raises:
        RTDError: a plugin fails, or two ship recipes of the same name.
    """
    folders = _collect("rtd_recipe_folders")
    recipes = ((plugin, recipe) for plugin, folder in folders for recipe in list_recipe_files(Path(folder)))
    return _index(recipes, "recipe", lambda recipe: recipe.name)


def find_recipe(name_or_file: str) -> RecipeFile:
    """Return a recipe by the name under which a plugin ships it, or by its path (`*.yaml` or `*.yml`).

    Raises:
        UsageError: neither exists.
        RTDError: as `list_recipes`.
    """
    path = Path(name_or_file)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UsageError(f"{path}: no such recipe file")
        return RecipeFile(path, path.stem)
    return _pick(list_recipes(), name_or_file, "recipe")


def _collect(hook: str) -> list[tuple[str, Any]]:
    """Return what a hook's implementations return, each item with the name of its plugin."""
    items = []
    manager = get_plugin_manager()
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        with manager.name_failures(implementation.plugin_name, hook):  # a generator fails only when it is iterated
            items += [(implementation.plugin_name, item) for item in implementation.function()]
    return items


def _index(items: Iterable[tuple[str, Item]], noun: str, name_of: Callable[[Item], str]) -> dict[str, Item]:
    """Index items by name, and refuse two of the same name."""
    manager = get_plugin_manager()
    index: dict[str, Item] = {}
    plugin_of: dict[str, str] = {}
    for plugin, item in items:
        name = name_of(item)
        if name in index:
            both = f"{manager.describe(plugin_of[name])} and {manager.describe(plugin)}"
            raise RTDError(f"two plugins register the {noun} {name!r}: {both}. Leave one out with {DISABLE}={plugin}")
        index[name], plugin_of[name] = item, plugin
    return index


def _list_named(hook: str, noun: str, check: Callable[[Any], str | None] = lambda item: None) -> dict[str, Any]:
    """Return the items of a hook by their attribute `name`; `check` returns what is wrong with an item."""
    manager = get_plugin_manager()
    items = _collect(hook)
    for plugin, item in items:
        problem = check(item)
        if problem is None and not isinstance(getattr(item, "name", None), str):
            problem = "it has no name"
        if problem is not None:
            raise manager.blame(plugin, f"registers {item!r} as {noun}, but {problem}")
    return _index(items, noun, lambda item: item.name)


def _check_adapter(item: Any) -> str | None:
    """Return what keeps an object from being listed as an adapter; `check_adapter` checks the rest."""
    from rtd_plugin.clip.tokens import Prompt
    from rtd_plugin.contract.adapter import Adapter

    if isinstance(item, type):
        return f"it is a class: return an instance, {item.__name__}()"
    if not isinstance(item, Adapter):
        return "it is not an instance of rtd_plugin.contract.Adapter"
    for attribute in ("name", "home", "prompt", "unconditioned_prompt", "prompt_of_two"):
        if not hasattr(item, attribute):
            return f"its class sets no {attribute}"
        if "prompt" in attribute and not isinstance(getattr(item, attribute), Prompt):
            return f"its {attribute} is not a Prompt"
    for attribute in ("composition_points", "training_files", "projection_files", "shims", "known_faults"):
        if not isinstance(getattr(item, attribute), tuple | list):
            return f"its {attribute} is not a tuple: a tuple of one needs a comma"
    return None


def _pick(items: Mapping[str, Item], name: str, noun: str) -> Item:
    if name not in items:
        raise UsageError(f"unknown {noun} {name!r}: installed are {', '.join(sorted(items)) or 'none'}")
    return items[name]

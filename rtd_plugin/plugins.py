"""Finds plugins through the entry-point group `rtd_plugin` and answers questions about what they registered."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from rtd_plugin import hookspecs
from rtd_plugin.errors import RTDError, UsageError

if TYPE_CHECKING:
    from rtd_plugin.adapter import Adapter
    from rtd_plugin.evaluation.benchmark import Benchmark
    from rtd_plugin.triplets.triplet import TripletSource

ENTRY_POINTS = "rtd_plugin"
DISABLE = "RTD_PLUGIN_DISABLE"  # names of plugins to leave out, separated by commas


@lru_cache(maxsize=1)
def plugin_manager() -> pluggy.PluginManager:
    """The one plugin manager of this process, with every installed plugin loaded.

    Raises:
        RTDError: a plugin cannot be imported, or implements a hook that does not exist or with wrong arguments.
    """
    manager = pluggy.PluginManager("rtd_plugin")
    manager.add_hookspecs(hookspecs)
    for name in filter(None, (name.strip() for name in os.environ.get(DISABLE, "").split(","))):
        manager.set_blocked(name)
    for entry_point in entry_points(group=ENTRY_POINTS):
        name = entry_point.name
        if manager.is_blocked(name):
            continue
        if manager.has_plugin(name):
            raise RTDError(f"two plugins are called {name!r}, one of them {entry_point.value}: uninstall one of them")
        try:
            manager.register(entry_point.load(), name)
        except pluggy.PluginValidationError as error:
            raise _misfit(name, error) from error
        except Exception as error:  # whatever a stranger's module raises when it is imported
            raise RTDError(
                f"the plugin {name!r} ({entry_point.value}) cannot be loaded: {type(error).__name__}: {error}. "
                f"Leave it out with {DISABLE}={name}"
            ) from error
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise _misfit(manager.get_name(error.plugin), error) from error
    return manager


def _misfit(name: str | None, error: pluggy.PluginValidationError) -> RTDError:
    problem = " ".join(str(error).split())
    return RTDError(f"the plugin {name!r} does not fit: {problem}. Leave it out with {DISABLE}={name}")


def adapters() -> dict[str, Adapter]:
    """All adapters by name."""
    return _named("rtd_adapters", "adapter")


def adapter(name: str) -> Adapter:
    """An adapter by name.

    Raises:
        UsageError: there is none of that name.
    """
    return _pick(adapters(), name, "adapter")


def triplet_source(name: str) -> type[TripletSource]:
    """A kind of triplet source by name."""
    return _pick(_named("rtd_triplet_sources", "triplet source"), name, "triplet source")


def benchmark(name: str) -> type[Benchmark]:
    """A kind of benchmark by name."""
    return _pick(_named("rtd_benchmarks", "benchmark"), name, "benchmark")


def recipes() -> dict[str, Path]:
    """All recipes that plugins ship, by name."""
    files = ((plugin, file) for plugin, folder in _collected("rtd_recipe_folders") for file in _recipes_in(folder))
    return _by_name(files, "recipe", lambda file: file.stem)


def _recipes_in(folder: Path) -> list[Path]:
    return sorted(Path(folder).glob("*.yaml"))


def _collected(hook: str) -> list[tuple[str, Any]]:
    """What a hook's implementations return, each with the name of the plugin it came from."""
    found = []
    for implementation in getattr(plugin_manager().hook, hook).get_hookimpls():
        try:
            found += [(implementation.plugin_name, item) for item in implementation.function()]
        except Exception as error:  # whatever a stranger's function raises
            name = implementation.plugin_name
            raise RTDError(
                f"the plugin {name!r} failed in {hook}: {type(error).__name__}: {error}. "
                f"Leave it out with {DISABLE}={name}"
            ) from error
    return found


def _by_name(found: Iterable[tuple[str, Any]], what: str, name_of: Callable[[Any], str]) -> dict[str, Any]:
    items: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for plugin, item in found:
        try:
            name = name_of(item)
        except AttributeError as error:
            raise RTDError(f"the plugin {plugin!r} registers {item!r} as {what}, but it has no name") from error
        if name in items:
            raise RTDError(
                f"two plugins register the {what} {name!r}: {origin[name]} and {plugin}. "
                f"Leave one out with {DISABLE}=name"
            )
        items[name], origin[name] = item, plugin
    return items


def _named(hook: str, what: str) -> dict[str, Any]:
    return _by_name(_collected(hook), what, lambda item: item.name)


def _pick(items: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in items:
        raise UsageError(f"there is no {what} {name!r}: installed are {', '.join(sorted(items)) or 'none'}")
    return items[name]

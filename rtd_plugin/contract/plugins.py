"""Finds plugins through the entry-point group `rtd_plugin` and answers questions about what they registered."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import lru_cache, wraps
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from rtd_plugin.contract import hookspecs
from rtd_plugin.errors import RTDError, UsageError

if TYPE_CHECKING:
    from rtd_plugin.contract.adapter import Adapter
    from rtd_plugin.evaluation.benchmark import Benchmark
    from rtd_plugin.triplets.triplet import TripletSource

ENTRY_POINTS = "rtd_plugin"
REMOVED_SOURCES = {
    "instructpix2pix": "`source: json` reads its keys",
    "llm": "run `rtd-plugin triplets build llm` once, and name the file that it writes with `source: json`",
    "rules": "run `rtd-plugin triplets build rules` once, and name the file that it writes with `source: json`",
}
DISABLE = "RTD_PLUGIN_DISABLE"  # names of plugins to leave out, separated by commas


class PluginManager(pluggy.PluginManager):
    """pluggy's, whose plugins are named when they fail.

    Attributes:
        packages: the installed package of each plugin that came from one, with its version.
    """

    def __init__(self) -> None:
        super().__init__(ENTRY_POINTS)
        self.packages: dict[str, str] = {}
        self.add_hookspecs(hookspecs)

    def origin(self, plugin: str) -> str:
        """How messages call a plugin: by its name and the package that brings it."""
        return f"{plugin} (of {self.packages[plugin]})" if plugin in self.packages else plugin

    def remedy(self, plugin: str) -> str:
        """What a user can do about a plugin, as a sentence's end; of one that no package brings, nothing."""
        return f". Leave it out with {DISABLE}={plugin}" if plugin in self.packages else ""

    @contextmanager
    def blamed(self, plugin: str, hook: str) -> Iterator[None]:
        """Says whose function it is that fails in a way that is no message to the user."""
        try:
            yield
        except RTDError:
            raise
        except Exception as error:  # whatever a stranger's function raises
            problem = f"failed in {hook}: {type(error).__name__}: {error}"
            raise RTDError(f"the plugin {self.origin(plugin)} {problem}{self.remedy(plugin)}") from error

    def register(self, plugin: object, name: str | None = None) -> str | None:
        name = super().register(plugin, name)
        for caller in self.get_hookcallers(plugin) or ():
            for implementation in caller.get_hookimpls():
                if implementation.plugin is plugin:
                    implementation.function = self._blaming(implementation.function, name, caller.name)
        return name

    def _blaming(self, function: Callable[..., Any], plugin: str, hook: str) -> Callable[..., Any]:
        @wraps(function)
        def blaming(*arguments: Any, **more: Any) -> Any:
            with self.blamed(plugin, hook):
                return function(*arguments, **more)

        return blaming


@lru_cache(maxsize=1)
def get_plugin_manager() -> PluginManager:
    """The one plugin manager of this process, with every installed plugin loaded.

    Raises:
        RTDError: a plugin cannot be imported, or implements a hook that does not exist or with wrong arguments.
    """
    manager = PluginManager()
    for name in filter(None, (name.strip() for name in os.environ.get(DISABLE, "").split(","))):
        manager.set_blocked(name)
    for entry_point in entry_points(group=ENTRY_POINTS):
        name = entry_point.name
        if manager.is_blocked(name):
            continue
        package = _package(entry_point)
        if manager.has_plugin(name):
            raise RTDError(
                f"two plugins are called {name!r}, one of {manager.packages[name]} and one of {package}: "
                "uninstall one of the two packages"
            )
        manager.packages[name] = package
        try:
            manager.register(entry_point.load(), name)
        except pluggy.PluginValidationError as error:
            raise _misfit(manager, name, error) from error
        except Exception as error:  # whatever a stranger's module raises when it is imported
            problem = f"cannot be loaded from {entry_point.value}: {type(error).__name__}: {error}"
            raise RTDError(f"the plugin {manager.origin(name)} {problem}{manager.remedy(name)}") from error
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise _misfit(manager, manager.get_name(error.plugin), error) from error
    return manager


def _package(entry_point: EntryPoint) -> str:
    return f"{entry_point.dist.name} {entry_point.dist.version}"


@contextmanager
def use_plugins(*plugins: object) -> Iterator[None]:
    """Plugins that are there for a while: for a run, say, objects with functions marked by `hookimpl`.

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
                raise _misfit(manager, name, error) from error
        yield


def _misfit(manager: PluginManager, name: str, error: pluggy.PluginValidationError) -> RTDError:
    problem = " ".join(str(error).split())
    return RTDError(f"the plugin {manager.origin(name)} does not fit: {problem}{manager.remedy(name)}")


def list_adapters() -> dict[str, Adapter]:
    """All adapters by name."""
    return _named("rtd_adapters", "adapter")


def find_adapter(name: str) -> Adapter:
    """An adapter by name.

    Raises:
        UsageError: there is none of that name.
    """
    return _pick(list_adapters(), name, "adapter")


def find_triplet_source(name: str) -> type[TripletSource]:
    """Return a class of triplet sources by name.

    Raises:
        UsageError: no plugin registers the name; for a source of earlier versions the message names its replacement.
    """
    sources = _named("rtd_triplet_sources", "triplet source")
    if name in REMOVED_SOURCES and name not in sources:
        raise UsageError(f"the source {name!r} was removed: {REMOVED_SOURCES[name]}")
    return _pick(sources, name, "triplet source")


def find_benchmark(name: str) -> type[Benchmark]:
    """A kind of benchmark by name."""
    return _pick(_named("rtd_benchmarks", "benchmark"), name, "benchmark")


def list_recipes() -> dict[str, Path]:
    """All recipes that plugins ship, by name."""
    files = ((plugin, file) for plugin, folder in _collected("rtd_recipe_folders") for file in _recipes_in(folder))
    return _by_name(files, "recipe", lambda file: file.stem)


def _recipes_in(folder: Path) -> list[Path]:
    return sorted(Path(folder).glob("*.yaml"))


def _collected(hook: str) -> list[tuple[str, Any]]:
    """What a hook's implementations return, each with the name of the plugin it came from."""
    found = []
    manager = get_plugin_manager()
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        with manager.blamed(implementation.plugin_name, hook):  # also a generator, which fails when it is iterated
            found += [(implementation.plugin_name, item) for item in implementation.function()]
    return found


def _by_name(found: Iterable[tuple[str, Any]], what: str, name_of: Callable[[Any], str]) -> dict[str, Any]:
    manager = get_plugin_manager()
    items: dict[str, Any] = {}
    plugin_of: dict[str, str] = {}
    for plugin, item in found:
        try:
            name = name_of(item)
        except AttributeError as error:
            problem = f"registers {item!r} as {what}, but it has no name"
            raise RTDError(f"the plugin {manager.origin(plugin)} {problem}") from error
        if name in items:
            both = f"{manager.origin(plugin_of[name])} and {manager.origin(plugin)}"
            raise RTDError(f"two plugins register the {what} {name!r}: {both}. Leave one out with {DISABLE}={plugin}")
        items[name], plugin_of[name] = item, plugin
    return items


def _named(hook: str, what: str) -> dict[str, Any]:
    return _by_name(_collected(hook), what, lambda item: item.name)


def _pick(items: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in items:
        raise UsageError(f"there is no {what} {name!r}: installed are {', '.join(sorted(items)) or 'none'}")
    return items[name]

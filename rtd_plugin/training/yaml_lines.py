"""YAML with its lines: load it safely, refuse a key given twice, and find or replace a value in the text."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rtd_plugin.contract.recipe_files import RecipeFile
from rtd_plugin.errors import UsageError
from rtd_plugin.regular_files import read_text

Location = tuple[str | int, ...]
"""Keys and list indices on the way to a value."""

NAMES = ("adapter", "source", "benchmark", "tracker")  # keys whose values are never paths
STRING = "tag:yaml.org,2002:str"


class NotYAML(ValueError):
    """A text is not plain YAML; `line` is where, from 1."""

    def __init__(self, problem: str, line: int):
        super().__init__(problem)
        self.line = line


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which also refuses a key given twice, where PyYAML takes the later value."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in keys:
                raise yaml.composer.ComposerError(None, None, f"the key {key.value!r} is given twice", key.start_mark)
            keys.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # an impossible date, for example
            raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from error


def load_yaml(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        NotYAML: the text is broken, gives a key twice, or asks for an object that is not plain data.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # a subclass of the safe one
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise NotYAML(error.problem or str(error), mark.line + 1 if mark else 1) from error
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise NotYAML(f"the character #x{error.character:04x} is not allowed", line) from error
    except RecursionError as error:
        raise NotYAML("nested too deeply", 1) from error


def read_values(recipe: Path | RecipeFile) -> tuple[str, dict[str, Any]]:
    """Return a recipe's text, and its keys and values, which are not validated.

    The lines of the text are those of the file, also if the recipe replaces the file's backbone.

    Raises:
        UsageError: the file cannot be read, or is not YAML with keys and values.
    """
    path = recipe if isinstance(recipe, Path) else recipe.path
    try:
        text = read_text(path, "utf-8-sig")
        values = load_yaml(text)
        if isinstance(recipe, RecipeFile) and recipe.backbone:
            text = _replace_backbone(text, recipe)
            values = load_yaml(text)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except NotYAML as error:
        raise UsageError(f"{path}, line {error.line}: not YAML: {error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not a text in UTF-8") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: not a recipe: it should hold keys and values")
    return text, values


def _replace_backbone(text: str, recipe: RecipeFile) -> str:
    scalars = _list_scalars(text)
    if missing := [key for key in recipe.backbone if ("backbone", key) not in scalars]:
        raise UsageError(f"{recipe}: needs backbone.{min(missing)}, which the backbone of {recipe.name} replaces")
    return _replace_scalars(text, {("backbone", key): value for key, value in recipe.backbone.items()})


def name_files(text: str, folder: Path) -> str:
    """Return a recipe's text with the files and folders that it names by paths relative to `folder` named in full."""
    scalars = {
        location: node.value
        for location, node in _list_scalars(text).items()
        if node.tag == STRING and node.value and location[-1] not in NAMES
    }
    paths = {location: os.path.join(folder.absolute(), value) for location, value in scalars.items()}
    return _replace_scalars(text, {location: path for location, path in paths.items() if os.path.exists(path)})


def _list_scalars(text: str) -> dict[Location, yaml.ScalarNode]:
    """Return the values of a YAML text that are neither lists nor mappings; of an alias, only what it stands for."""
    scalars: dict[Location, yaml.ScalarNode] = {}
    visited = set()

    def visit(node: yaml.Node | None, location: Location) -> None:
        if id(node) in visited:
            return
        visited.add(id(node))
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                visit(value, (*location, key.value))
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                visit(value, (*location, index))
        elif isinstance(node, yaml.ScalarNode) and location:
            scalars[location] = node

    visit(yaml.compose(text, Loader=_Loader), ())
    return scalars


def _replace_scalars(text: str, values: Mapping[Location, str]) -> str:
    """Return a YAML text with values replaced, and all the rest, comments too, as it was."""
    scalars = _list_scalars(text)
    # A node begins at its anchor or tag, its token after them.
    tokens = [token for token in yaml.scan(text, Loader=_Loader) if isinstance(token, yaml.ScalarToken)]
    starts = {token.end_mark.index: token.start_mark.index for token in tokens}
    for location in sorted(values, key=lambda location: scalars[location].end_mark.index, reverse=True):
        if scalars[location].value != values[location]:
            end = scalars[location].end_mark.index
            start = starts.get(end)
            quoted = json.dumps(values[location], ensure_ascii=False)
            text = f"{text[:end]} {quoted}{text[end:]}" if start is None else text[:start] + quoted + text[end:]
    return text


def line_of(text: str, location: Location) -> int:
    """Return the line, from 1, of a value in a YAML text, or of the innermost value around it that exists."""
    node = yaml.compose(text, Loader=_Loader)
    line = 1
    for step in location:
        if isinstance(node, yaml.MappingNode):
            entry = next(((key, value) for key, value in node.value if key.value == str(step)), None)
            if entry is None:
                break
            key, node = entry
            line = key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
        else:
            break
    return line

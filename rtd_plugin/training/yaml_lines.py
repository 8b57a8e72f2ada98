"""YAML with its lines: load it safely, refuse a key given twice, and find or replace a value in the text."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from rtd_plugin.contract.recipe_files import RecipeFile
from rtd_plugin.errors import UsageError
from rtd_plugin.regular_files import read_text

Location = tuple[str, ...]
"""Keys and list indices that lead to a value."""

# Keys whose values are never paths, even if a file happens to be called so.
NAMES = {"adapter", "source", "benchmark", "tracker", "pretrained", "columns", "config", "split", "tasks", "select"}
NAMES |= {"precision", "schedule", "engine", "concatenation", "negatives"}
STRING = "tag:yaml.org,2002:str"


class NotYAML(ValueError):
    """A text that is not plain YAML; `line` counts from 1."""

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
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as error:  # an impossible date or number, a tag that does not fit
            raise yaml.constructor.ConstructorError(None, None, _explain(error), node.start_mark) from error


def _explain(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else f"not a value ({type(error).__name__}: {error})"


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
    except (ValueError, OverflowError) as error:  # a character that does not exist
        raise NotYAML(_explain(error), 1) from error


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
        raise UsageError(f"{path}: not a recipe: expected a mapping")
    return text, values


def _replace_backbone(text: str, recipe: RecipeFile) -> str:
    scalars = _list_scalars(text)
    if missing := [key for key in recipe.backbone if ("backbone", key) not in scalars]:
        raise UsageError(f"{recipe}: needs backbone.{min(missing)}, which the backbone of {recipe.name} replaces")
    return _replace_scalars(text, {("backbone", key): value for key, value in recipe.backbone.items()})


def name_files(text: str, folder: Path) -> str:
    """Return a recipe's text with paths of existing files and folders, relative to `folder`, made absolute."""
    paths = {}
    for location, node in _list_scalars(text).items():
        if node.tag == STRING and node.value and NAMES.isdisjoint(location):
            path = Path(os.path.join(folder.absolute(), node.value))
            # A key may follow a file's name, see `rtd_plugin.checkpoint_parts.split_key`.
            if path.exists() or ("#" in path.name and path.with_name(path.name.rpartition("#")[0] or "#").exists()):
                paths[location] = str(path)
    return _replace_scalars(text, paths)


def _list_nodes(text: str) -> dict[Location, tuple[yaml.Node, int]]:
    """Return the values of a YAML text with their lines, from 1; of an alias, nothing that is inside it."""
    nodes: dict[Location, tuple[yaml.Node, int]] = {}
    visited = set()

    def visit(node: yaml.Node, location: Location, mark: yaml.Mark) -> None:
        nodes[location] = node, mark.line + 1
        if id(node) in visited:
            return
        visited.add(id(node))
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                visit(value, (*location, str(key.value)), key.start_mark)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                visit(value, (*location, str(index)), value.start_mark)

    if root := yaml.compose(text, Loader=_Loader):
        visit(root, (), root.start_mark)
    return nodes


def _list_scalars(text: str) -> dict[Location, yaml.ScalarNode]:
    """Return the values of a YAML text that are neither lists nor mappings, each where it is written."""
    scalars = {location: node for location, (node, _) in _list_nodes(text).items() if isinstance(node, yaml.ScalarNode)}
    first = {id(node): location for location, node in reversed(scalars.items())}
    return {location: node for location, node in scalars.items() if first[id(node)] == location}


def _replace_scalars(text: str, values: Mapping[Location, str]) -> str:
    """Return a YAML text with values replaced, and everything else, comments included, unchanged."""
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


def line_of(text: str, location: Iterable[str | int]) -> int:
    """Return the line, from 1, of a value in a YAML text, or of the innermost value around it that exists."""
    nodes, steps = _list_nodes(text), tuple(map(str, location))
    return next((nodes[steps[:end]][1] for end in range(len(steps), 0, -1) if steps[:end] in nodes), 1)

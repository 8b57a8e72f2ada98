"""Safe YAML loading that refuses duplicate keys, and the line of a value."""

from pathlib import Path
from typing import Any

import yaml

from rtd_plugin.errors import UsageError


class NotYAML(ValueError):
    """A problem in a text, with its line, counted from 1."""

    def __init__(self, problem: str, line: int):
        super().__init__(problem)
        self.line = line


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, but for duplicate keys, of which it would take the later one."""

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


def read_values(path: Path) -> tuple[str, dict[str, Any]]:
    """Return a recipe's text, and its keys and values, which are not validated.

    Raises:
        UsageError: the file cannot be read, or is not YAML with keys and values.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
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


def line_of(text: str, location: tuple[str | int, ...]) -> int:
    """The line, from 1, of the value at a location in a YAML text, or of the last part of the location that exists."""
    node = yaml.compose(text, Loader=_Loader)
    line = 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == str(part)]
            if not found:
                break
            key, node = found[0]
            line = key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line

"""The recipes in a folder: a YAML file each, or with a table of backbones several for each file."""

import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rtd_plugin.errors import RTDError
from rtd_plugin.regular_files import read_json

BACKBONES_FILE = "backbones.json"  # {"vit-l-14": {"model": "ViT-L-14", "pretrained": "openai"}, …}


@dataclass(frozen=True)
class RecipeFile:
    """A recipe on disk; `str` gives the file's path, for messages.

    Attributes:
        path: the YAML file.
        name: the recipe's name.
        backbone: keys of the file's `backbone` with the values that replace the file's; empty for the file as written.
    """

    path: Path
    name: str
    backbone: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return str(self.path)


def list_recipe_files(folder: Path) -> Iterator[RecipeFile]:
    """Yield the recipes of a folder: NAME for each `NAME.yaml`.

    In a folder with `backbones.json`, NAME-BACKBONE for each of its backbones.

    Raises:
        RTDError: `backbones.json` is not a table of backbones.
    """
    files = sorted(folder.glob("*.yaml"))
    if not (folder / BACKBONES_FILE).is_file():
        yield from (RecipeFile(path, path.stem) for path in files)
        return
    backbones = _read_backbones(folder / BACKBONES_FILE)
    for path in files:
        for name, backbone in backbones.items():
            yield RecipeFile(path, f"{path.stem}-{name}", backbone)


def _read_backbones(path: Path) -> dict[str, dict[str, str]]:
    # Checked without pydantic, which takes longer to import than recipes take to list.
    backbones = read_json(path)
    for name, backbone in backbones.items():
        has_keys = isinstance(backbone, dict) and backbone.keys() <= {"model", "pretrained"}
        if not has_keys or not all(isinstance(value, str) for value in backbone.values()):
            raise RTDError(f"{path}: {name}: needs a model and a pretrained tag, found {reprlib.repr(backbone)}")
    return backbones

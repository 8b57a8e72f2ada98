"""The manifest of a patch folder: everything that a host's process needs to know of its patch, as JSON."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rtd_plugin.clip.tuned_encoder import TunedWeights
from rtd_plugin.errors import RTDError, UsageError
from rtd_plugin.regular_files import read_text, resolve_links

MANIFEST_FILE = "manifest.json"
FORMAT = 2
SITE = "site"  # the folder of a patch that goes on PYTHONPATH, apart from the other files, which must not be importable
CODE = "code"  # the folder of the modules that the host's Python imports from the patch, unless it has them installed
WEIGHTS_FILE = "text_encoder.safetensors"
SUFFIX = "-rtd-patch"  # of a patch folder's name, after that of the host it lies beside


@dataclass(frozen=True)
class PatchedPoint:
    """A `rtd_plugin.contract.composition.CompositionPoint` as plain values; `read` as `module:function`."""

    file: str
    modules: tuple[str, ...]
    name: str
    signature: str
    read: str


@dataclass(frozen=True)
class PatchedShim:
    """A shim that is switched on; `repair` as `module:function`, the rest as in `rtd_plugin.contract.shims.Shim`."""

    name: str
    file: str | None
    modules: tuple[str, ...]
    function: str
    repair: str


@dataclass(frozen=True)
class Manifest:
    """A patch.

    Attributes:
        folder: the patch folder.
        host: the host's root.
        commit: of the host, if git knows it.
        adapter: the method's name.
        points: the host's composition points.
        training_files: patterns of the host's files in whose calls the pre-trained encoder stays.
        shims: those that are switched on.
        weights: the tuned text encoder.
        blend: from the pre-trained text encoder (0) to the tuned one (1).
        force: whether the host may have another CLIP than the encoder was tuned from.
        version: of the rtd-plugin that wrote it.
        rounds_weights: whether the host would round the tuned weights; see `rtd_plugin.contract.Adapter`.
        not_copied: why the code that the patch needs is not in the patch folder, so that rtd-plugin and the adapter's
            package have to be installed for the host's Python; None if it is.
    """

    folder: Path = field(compare=False)
    host: str
    commit: str | None
    adapter: str
    points: tuple[PatchedPoint, ...]
    training_files: tuple[str, ...]
    shims: tuple[PatchedShim, ...]
    weights: TunedWeights
    blend: float
    force: bool
    version: str
    rounds_weights: bool = True
    not_copied: str | None = None

    @property
    def packages(self) -> list[str]:
        """The packages that have to be installed for the host's Python."""
        if self.not_copied is None:
            return []
        references = [*(point.read for point in self.points), *(shim.repair for shim in self.shims)]
        return sorted({"rtd_plugin", *(reference.split(".")[0].split(":")[0] for reference in references)})

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, without the folder, which is where the manifest lies."""
        values = asdict(self)
        del values["folder"]
        return {"format": FORMAT, **values}


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """Read the manifest of a patch folder.

    Raises:
        RTDError: it is missing, broken, or of another format.
    """
    path = Path(folder) / MANIFEST_FILE
    try:
        values = json.loads(read_text(path))
        if (written_in := values.pop("format")) != FORMAT:
            raise RTDError(
                f"{path}: written by rtd-plugin {values.get('version')} in format {written_in}, but this version reads "
                f"format {FORMAT}: use that version, or patch the host again"
            )
        values["points"] = tuple(PatchedPoint(**_with_tuple(point)) for point in values["points"])
        values["shims"] = tuple(PatchedShim(**_with_tuple(shim)) for shim in values["shims"])
        values["training_files"] = tuple(values["training_files"])
        values["weights"] = TunedWeights(**values["weights"])
        return Manifest(folder=path.parent.absolute(), **values)
    except FileNotFoundError as error:
        raise RTDError(f"{folder}: not a patch folder: it has no {MANIFEST_FILE}") from error
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise RTDError(f"{path}: not a readable manifest of a patch: patch the host again") from error


def _with_tuple(values: dict[str, Any]) -> dict[str, Any]:
    return {**values, "modules": tuple(values["modules"])}


def default_folder(host: Path) -> Path:
    """Return the default patch folder of a host: beside the host's root."""
    return host.with_name(host.name + SUFFIX)


def find_patch(path: str | os.PathLike[str]) -> Manifest:
    """Return the patch of a patch folder, or the one beside a host, given any folder of the host.

    Raises:
        RTDError: no patch is found.
    """
    named = Path(path).absolute()
    if not named.exists():
        raise RTDError(f"{path}: no such folder")
    if (named / MANIFEST_FILE).is_file():
        return read_manifest(named)
    resolved = resolve_links(named)
    for folder in (resolved, *resolved.parents):
        if folder.name and (default_folder(folder) / MANIFEST_FILE).is_file():
            return read_manifest(default_folder(folder))
    raise RTDError(
        f"{path}: neither a patch folder nor a host with one beside it: run `rtd-plugin patch` first, or name the "
        "folder that its --output was"
    )


def check_python_path(folder: Path) -> None:
    """Check that a patch folder can be an entry of PYTHONPATH, by which other processes find the patch.

    Raises:
        UsageError: its path holds the character that separates entries, so that no Python would activate the patch.
    """
    if os.pathsep in str(folder):
        raise UsageError(
            f"{folder}: PYTHONPATH cannot hold a path with {os.pathsep!r}: patch the host with another --output, or "
            "move the patch folder"
        )

"""Writes and removes patch folders."""

import json
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from safetensors.torch import save_file

from rtd_plugin.clip.layouts import read_state_dict
from rtd_plugin.clip.tuned_encoder import TunedWeights
from rtd_plugin.errors import RTDError, UsageError, locate_errors
from rtd_plugin.files import write_atomically
from rtd_plugin.patching.detection import Host
from rtd_plugin.patching.function_reference import format_reference
from rtd_plugin.patching.host_code import NotCopiedError, collect_code
from rtd_plugin.patching.manifest import (
    CODE,
    MANIFEST_FILE,
    SITE,
    WEIGHTS_FILE,
    Manifest,
    PatchedPoint,
    PatchedShim,
    check_python_path,
    default_folder,
    find_patch,
    read_manifest,
)
from rtd_plugin.regular_files import resolve_links

SCRIPTS = {"activate": "activate", "activate.fish": "activate.fish", f"{SITE}/sitecustomize.py": "sitecustomize.py"}


def write_patch(
    folder: Path,
    host: Host,
    weights: TunedWeights,
    *,
    blend: float = 1.0,
    force: bool = False,
    without_shims: Iterable[str] = (),
) -> Manifest:
    """Write a patch folder atomically; an existing patch folder is replaced.

    It holds the weights, and the code that the host's processes need if the adapter's can be copied; see
    `rtd_plugin.patching.host_code`.

    Args:
        folder: outside the host.
        host, weights, blend, force: as of `Manifest`.
        without_shims: names of shims that are switched off.

    Raises:
        RTDError: the folder cannot be written, or the weights or an adapter's function by its name cannot be read.
        UsageError: the folder or one of the settings is invalid.
    """
    folder = folder.absolute()
    if resolve_links(folder).is_relative_to(host.root):
        raise UsageError(f"{folder}: lies inside the host, which is never changed: pass another --output")
    if folder.exists() and not _is_empty(folder):
        if not (folder / MANIFEST_FILE).is_file():
            raise UsageError(f"{folder}: exists and is not a patch folder: pass another --output")
        if foreign := _list_foreign_files(folder):
            raise UsageError(
                f"{folder}: would be replaced, but holds {foreign[0]}, which is not part of the patch: move it, or "
                "pass another --output"
            )
    check_python_path(folder)
    if not 0 <= blend <= 1:
        raise UsageError(f"a blend of {blend} is not between 0 (the pre-trained text encoder) and 1 (the tuned one)")
    unknown = sorted(set(without_shims) - {shim.name for shim in host.adapter.shims})
    if unknown:
        known = ", ".join(shim.name for shim in host.adapter.shims) or "none"
        raise UsageError(f"{host.adapter.name} has no shim {unknown[0]!r}: it has {known}")
    points = tuple(
        PatchedPoint(point.file, point.modules, point.name, str(point.signature), format_reference(point.read))
        for point in (host_point.point for host_point in host.points)
    )
    shims = tuple(
        PatchedShim(shim.name, shim.file, shim.modules, shim.function, format_reference(shim.repair))
        for shim in host.shims
        if shim.name not in without_shims
    )
    not_copied: str | None = None
    code: dict[str, bytes] = {}
    try:
        references = [*(point.read for point in points), *(shim.repair for shim in shims)]
        packages = {base.__module__.split(".")[0] for base in type(host.adapter).__mro__}
        code = collect_code(
            (reference.partition(":")[0] for reference in references), packages - {"abc", "builtins", "rtd_plugin"}
        )
    except NotCopiedError as error:
        not_copied = str(error)
    manifest = Manifest(
        folder=folder,
        host=str(host.root),
        commit=host.commit,
        adapter=host.adapter.name,
        points=points,
        training_files=host.adapter.training_files,
        shims=shims,
        weights=weights,
        blend=blend,
        force=force,
        version=version("rtd-plugin"),
        rounds_weights=host.adapter.rounds_weights,
        not_copied=not_copied,
    )
    with locate_errors(weights.path):
        state = read_state_dict(weights.read())
    with write_atomically(folder) as draft:
        draft.mkdir()
        (draft / SITE).mkdir()
        (draft / MANIFEST_FILE).write_text(json.dumps(manifest.to_dict(), indent=2) + "\n", encoding="utf-8")
        for name, script in SCRIPTS.items():
            content = (files("rtd_plugin.patching") / "scripts" / script).read_text(encoding="utf-8")
            (draft / name).write_text(content, encoding="utf-8")
        for name, source in code.items():
            (draft / CODE / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / CODE / name).write_bytes(source)
        # Copies, as safetensors refuses tensors that share memory; hosts may have a torch without float8.
        copies = {name: (w.float() if w.element_size() == 1 else w).clone().contiguous() for name, w in state.items()}
        save_file(copies, draft / WEIGHTS_FILE)
    return manifest


def find_removable(path: Path) -> Path:
    """Return the patch folder that `path` means; see `rtd_plugin.patching.manifest.find_patch`.

    Raises:
        RTDError: no patch is found, nor the empty folder that an interrupted removal leaves.
    """
    host = resolve_links(path)
    for folder in (path.absolute(), *([default_folder(host)] if host.name else [])):
        if _is_empty(folder):
            return folder
    return find_patch(path).folder


def remove_patch(folder: Path) -> None:
    """Remove a patch folder but for files that are not part of the patch. An interrupted removal can be repeated.

    In the folder of its code, Python files are part of it.

    Raises:
        RTDError: it is not a patch folder, or cannot be removed.
    """
    if not _is_empty(folder):
        read_manifest(folder)
    try:
        _remove_code(folder / CODE)
        shutil.rmtree(folder / SITE / "__pycache__", ignore_errors=True)
        for name in (*SCRIPTS, WEIGHTS_FILE):
            (folder / name).unlink(missing_ok=True)
        _remove_if_empty(folder / SITE)
        (folder / MANIFEST_FILE).unlink(missing_ok=True)  # the last file: until now it is a patch folder
        _remove_if_empty(folder)
    except OSError as error:
        raise RTDError(f"{folder}: cannot be removed ({error.strerror})") from error


def _list_foreign_files(folder: Path) -> list[str]:
    """Return names of files in a patch folder that are not part of the patch."""
    entries = [*folder.iterdir(), *(folder / SITE).glob("*")]
    names = {entry.relative_to(folder).as_posix() for entry in entries}
    code = [path for path in (folder / CODE).rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    names |= {path.relative_to(folder).as_posix() for path in code}
    return sorted(names - {*SCRIPTS, MANIFEST_FILE, WEIGHTS_FILE, SITE, f"{SITE}/__pycache__", CODE})


def _remove_code(folder: Path) -> None:
    """Remove Python files and the folders that are empty then."""
    for path, _, names in os.walk(folder, topdown=False):
        for name in names:
            if name.endswith((".py", ".pyc")):
                Path(path, name).unlink()
        _remove_if_empty(Path(path))


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())

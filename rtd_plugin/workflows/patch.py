"""Patching a host and examining it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rtd_plugin.contract import plugins
from rtd_plugin.errors import UsageError
from rtd_plugin.patching.detection import Host, find_host
from rtd_plugin.patching.doctor import examine
from rtd_plugin.patching.manifest import Manifest, default_folder
from rtd_plugin.patching.patch_folder import find_removable, remove_patch, write_patch
from rtd_plugin.regular_files import resolve_links


def patch(
    host: Path,
    *,
    weights: Path | None = None,
    adapter: str | None = None,
    output: Path | None = None,
    blend: float = 1.0,
    force: bool = False,
    without_shims: Iterable[str] = (),
) -> tuple[Manifest, Host]:
    """Write a patch folder for a host.

    Args:
        host: a folder of the host, or with the host in it.
        weights: a run or a text encoder; None for the newest run in ./runs.
        adapter: name of the host's method; None to look for all.
        output: the patch folder; None for the one beside the host.
        blend: from the pre-trained text encoder (0) to the tuned one (1).
        force: whether the host may have another CLIP than the encoder was tuned from.
        without_shims: names of shims to switch off.

    Raises:
        RTDError: the folder is not a host, or the weights cannot be used.
        UsageError: the host, the weights or the patch folder have to be named.
    """
    from rtd_plugin.clip.tuned_encoder import find_newest_run, read_weights  # imports torch
    from rtd_plugin.hub import find_run
    from rtd_plugin.workflows.runs import RUNS

    recognised = recognise(host, adapter)
    if recognised.root.parent == recognised.root:
        raise UsageError(f"{recognised.root}: the root of the file system has no folder beside it: pass --output")
    tuned = read_weights(find_run(weights) if weights is not None else find_newest_run(RUNS))
    named = resolve_links(host)  # the host may be a folder in it: its patch does not belong into the checkout
    folder = output or default_folder(named if recognised.root.is_relative_to(named) else recognised.root)
    manifest = write_patch(folder, recognised, tuned, blend=blend, force=force, without_shims=without_shims)
    plugins.get_plugin_manager().hook.rtd_host_patched(manifest=manifest)
    return manifest, recognised


def remove(host: Path, output: Path | None = None) -> Path:
    """Remove the patch folder `output`, or the one that `host` is or has beside it; return its path.

    Raises:
        RTDError: no patch folder is found, or it cannot be removed.
    """
    folder = output or find_removable(host)
    remove_patch(folder)
    return folder


def recognise(host: Path, adapter: str | None = None) -> Host:
    """Return the host that a folder belongs to, of one adapter's method or of any.

    Raises:
        RTDError: the folder is not a host.
        UsageError: there is no such adapter, or the folder may be a host of several.
    """
    return find_host(host, plugins.list_adapters().values() if adapter is None else [plugins.find_adapter(adapter)])


def diagnose(host: Path, adapter: str | None = None) -> dict[str, Any]:
    """Examine the host that a folder belongs to, see `examine`; arguments and errors are those of `recognise`."""
    return examine(recognise(host, adapter))

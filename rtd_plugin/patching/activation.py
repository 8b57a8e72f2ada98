"""Patches from Python: `rtd_plugin.activate`."""

from __future__ import annotations

import os

from rtd_plugin.errors import RTDError
from rtd_plugin.patching.active_patch import ActivePatch, find_active_patch
from rtd_plugin.patching.bootstrap import activate_waiting
from rtd_plugin.patching.manifest import find_patch


def activate(patch: str | os.PathLike[str]) -> ActivePatch:
    """Encode composed queries of a patch's host with the tuned text encoder, in this process and from now on.

    Works before and after the host's modules are imported, and is idempotent. In modules that are imported already,
    functions are replaced wherever a module's global or a class names them; a reference elsewhere, such as a local
    variable, keeps the host's function. Call it again after a module was reloaded.

        with rtd_plugin.activate("path/to/searle-rtd-patch") as patch:
            ...
            print(patch.composed_queries)

    Args:
        patch: a patch folder, or a host with a patch folder beside it.

    Returns:
        The active patch, until `deactivate()` or the end of the `with` block.

    Raises:
        RTDError: there is no such patch, another patch of the same host is active, or the host's functions have changed
            since they were patched.
    """
    manifest = find_patch(patch)
    activate_waiting()
    current = find_active_patch(manifest.host)
    if current is not None and current.manifest != manifest:
        raise RTDError(
            f"{manifest.folder}: another patch of {manifest.host} is active, {current.manifest.folder}: "
            "deactivate it first"
        )
    active = current or ActivePatch(manifest)
    active.start()
    return active

"""Patches from Python: `rtd_plugin.activate`."""

import os

from rtd_plugin.errors import RTDError
from rtd_plugin.patching.active_patch import ActivePatch, find_active_patch
from rtd_plugin.patching.bootstrap import activate_waiting
from rtd_plugin.patching.manifest import Manifest, find_patch


class Activation:
    """The result of `activate`: describes the patch, counts its composed queries, deactivates it.

    As a context manager it deactivates the patch at the end of the block, unless the patch was active before.
    """

    def __init__(self, patch: ActivePatch, was_active: bool):
        self._patch = patch
        self._was_active = was_active

    @property
    def manifest(self) -> Manifest:
        """The patch: its host, its weights, its composition points."""
        return self._patch.manifest

    @property
    def composed_queries(self) -> int:
        """Number of composed queries that used the tuned text encoder in this process."""
        return self._patch.composed_queries

    def deactivate(self) -> None:
        """Restore the functions of the host. Idempotent."""
        self._patch.stop()

    def __enter__(self) -> "Activation":
        return self

    def __exit__(self, *_: object) -> None:
        if not self._was_active:
            self.deactivate()


def activate(patch: str | os.PathLike[str]) -> Activation:
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
    return Activation(active, was_active=current is not None)

"""Patches from Python: `rtd_plugin.activate`."""

import os

from rtd_plugin.errors import RTDError
from rtd_plugin.patching.active_patch import PatchInForce, patch_of
from rtd_plugin.patching.manifest import Manifest, find_patch


class Activation:
    """What `activate` gives: says what the patch does, and ends it.

    As a context manager it ends the patch with the block, unless that was in force before.
    """

    def __init__(self, patch: PatchInForce, began: bool):
        self._patch = patch
        self._began = began

    @property
    def manifest(self) -> Manifest:
        """The patch: its host, its weights, its composition points."""
        return self._patch.manifest

    @property
    def composed_queries(self) -> int:
        """How many composed queries used the tuned text encoder in this process."""
        return self._patch.composed_queries

    def deactivate(self) -> None:
        """Give the host its own functions back; once is as good as twice."""
        self._patch.end()

    def __enter__(self) -> "Activation":
        return self

    def __exit__(self, *_: object) -> None:
        if self._began:
            self.deactivate()


def activate(patch: str | os.PathLike[str]) -> Activation:
    """Put a patch into force in this process: composed queries of its host use the tuned text encoder from now on.

    It makes no difference whether the host's modules were imported before or are later, nor how often it is called. In
    modules that were, the functions are replaced wherever a module's global or a class names them; what else holds one,
    such as a local variable, keeps the host's own. Call it again after a module was reloaded.

    Args:
        patch: a patch folder, or a host that has one beside it.

    Returns:
        The patch in force, to be ended by `deactivate()` or used as a context manager.

    Raises:
        RTDError: there is no such patch, another one of the same host is in force, or the host's functions are no
            longer those that were patched.
    """
    manifest = find_patch(patch)
    current = patch_of(manifest.host)
    if current is not None and current.manifest != manifest:
        raise RTDError(
            f"{manifest.folder}: another patch of {manifest.host} is in force, {current.manifest.folder}: "
            "deactivate it first"
        )
    in_force = current or PatchInForce(manifest)
    in_force.begin()
    return Activation(in_force, began=current is None)

"""What a patch folder's `sitecustomize` calls, in every Python that starts with the folder on its path."""

import os

from rtd_plugin.patching import usage_log as tally
from rtd_plugin.patching.active_patch import PatchInForce, patch_of
from rtd_plugin.patching.manifest import read_manifest


def start(folder: str) -> None:
    """Put the patch of a folder into force, unless an inner one of the same host already is.

    Raises:
        RTDError: the patch is broken.
    """
    manifest = read_manifest(folder)
    if patch_of(manifest.host) is None:
        PatchInForce(manifest).begin()
        if tally.VARIABLE in os.environ:
            tally.of_process().add(tally.STARTED)

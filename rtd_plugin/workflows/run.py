"""Running commands under a patch; apart from `workflows.patch`, which imports torch and would delay every command."""

from collections.abc import Sequence
from pathlib import Path

from rtd_plugin.patching.launcher import run
from rtd_plugin.patching.manifest import find_patch


def run_patched(path: Path, command: Sequence[str]) -> tuple[int, str]:
    """Run a command under the patch of a patch folder or a host; see `rtd_plugin.patching.launcher.run`."""
    return run(find_patch(path), command)

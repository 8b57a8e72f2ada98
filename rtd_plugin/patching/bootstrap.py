"""What a patch folder's `sitecustomize` calls, in every Python that starts with the folder on its path.

Most of these Pythons never import the host, so this only waits for the host's modules.
"""

from __future__ import annotations

import json
import os

from rtd_plugin.patching.import_hook import hook
from rtd_plugin.patching.usage_log import STARTED, VARIABLE, get_usage_log

TYPE_CHECKING = False  # every Python under a patch imports this module, and need not wait for typing
if TYPE_CHECKING:
    from types import ModuleType

_waiting: dict[str, str] = {}  # patch folders by their hosts' roots


def start(folder: str) -> None:
    """Activate the patch of a folder as soon as one of the modules that it changes is imported.

    Does nothing if another patch of the same host has started: an inner `rtd-plugin run` takes precedence.

    Raises:
        RTDError: the patch folder has no readable manifest.
    """
    try:
        with open(os.path.join(folder, "manifest.json"), encoding="utf-8") as file:
            manifest = json.load(file)
        host, points, shims = manifest["host"], manifest["points"], manifest["shims"]
        names = {name for function in [*points, *shims] for name in function["modules"]}
        files = {os.path.join(host, point["file"]) for point in points}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        from rtd_plugin.errors import RTDError
        from rtd_plugin.patching.manifest import read_manifest

        read_manifest(folder)  # raises an error that says more
        raise RTDError(f"{folder}: not a readable patch: patch the host again") from error
    if host in _waiting:
        return
    _waiting[host] = folder
    log = get_usage_log()
    log.expected = host
    if VARIABLE in os.environ:
        log.add(STARTED)

    def activate(module: ModuleType) -> None:
        from rtd_plugin.errors import RTDError

        try:
            activate_waiting()
        except RTDError as error:
            # Without its patch the host must not go on; other programs' modules may have the same name.
            if os.path.realpath(getattr(module, "__file__", None) or "") in files:
                raise SystemExit(f"rtd-plugin: {error}") from error

    for name in names:
        hook.add(name, f"bootstrap of {host}", activate)


def activate_waiting() -> None:
    """Activate the patches that wait for their host.

    Raises:
        RTDError: a patch is broken, or its host has changed.
    """
    if not _waiting:
        return
    from rtd_plugin.patching.active_patch import ActivePatch, find_active_patch
    from rtd_plugin.patching.manifest import read_manifest

    for host, folder in list(_waiting.items()):
        if find_active_patch(host) is None:
            ActivePatch(read_manifest(folder)).start()
        _waiting.pop(host, None)

"""The marker of hooks, apart from their specifications: a host that imports an adapter may lack pluggy."""

from __future__ import annotations

from typing import Any

try:
    from pluggy import HookimplMarker
except ImportError:  # inside a host, where no hook is called

    class HookimplMarker:  # type: ignore[no-redef]
        """Leaves a function as it is."""

        def __init__(self, project: str) -> None: ...

        def __call__(self, function: Any = None, **options: Any) -> Any:
            return self if function is None else function


hookimpl = HookimplMarker("rtd_plugin")

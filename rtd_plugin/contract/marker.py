"""The marker of hook implementations, apart from pluggy: inside a host, adapters are imported and plugins are not."""

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def hookimpl(
    function: Function | None = None,
    *,
    specname: str | None = None,
    tryfirst: bool = False,
    trylast: bool = False,
    optionalhook: bool = False,
    wrapper: bool = False,
    hookwrapper: bool = False,
) -> Any:
    """Marks a function as the implementation of the hook of its name; the options are those of pluggy's own marker.

    It leaves what pluggy looks for: its `HookimplOpts` as the function's attribute `rtd_plugin_impl`.
    """
    options = {
        "wrapper": wrapper,
        "hookwrapper": hookwrapper,
        "optionalhook": optionalhook,
        "tryfirst": tryfirst,
        "trylast": trylast,
        "specname": specname,
    }

    def mark(function: Function) -> Function:
        function.rtd_plugin_impl = options  # type: ignore[attr-defined]
        return function

    return mark if function is None else mark(function)

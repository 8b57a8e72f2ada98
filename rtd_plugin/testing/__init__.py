"""Checks for an adapter's author: `check_adapter(MyMethod())` in a test, or `pytest --rtd-adapter NAME`.

Names are imported when they are first used: every pytest of an environment loads `pytest_plugin`, which must not
import torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rtd_plugin.testing.adapters import check_adapter
    from rtd_plugin.testing.reference import encode_slowly

__all__ = ["check_adapter", "encode_slowly"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rtd_plugin.testing import adapters, reference

    return getattr(adapters if name == "check_adapter" else reference, name)

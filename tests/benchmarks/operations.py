"""Counting ATen operations: of those without views each is about one kernel of a GPU."""

from collections import Counter
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

VIEWS = {
    "view",
    "_unsafe_view",
    "t",
    "transpose",
    "permute",
    "unbind",
    "expand",
    "slice",
    "select",
    "unsqueeze",
    "split",
}
VIEWS |= {"squeeze", "detach", "alias", "as_strided", "unfold", "device", "empty", "empty_like", "new_empty"}
VIEWS |= {"empty_strided", "new_empty_strided", "_reshape_alias", "lift_fresh"}


class Operations(TorchDispatchMode):
    """Counts ATen operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name not in VIEWS:
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))

"""What the text tower uses of torch, for versions from 1.11 on.

A host keeps its torch; outside of hosts this package needs 2.4.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

try:
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ImportError:  # before 2.3
    sdpa_kernel = None  # type: ignore[assignment]

try:
    from torch.overrides import TorchFunctionMode
except ImportError:  # before 1.13
    TorchFunctionMode = object  # type: ignore[assignment, misc]

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Module = TypeVar("Module", bound=nn.Module)
VERSION = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])


def is_compiling() -> bool:
    """Whether torch records a graph, which cannot depend on data."""
    if VERSION < (2, 1) or not hasattr(torch.compiler, "is_compiling"):  # 2.1 and 2.2 have the module without it
        return False
    return torch.compiler.is_compiling()


def select_attention_kernels() -> AbstractContextManager[Any]:
    """Leave cuDNN's attention out within the block.

    Torch prefers it on recent GPUs, but it builds a plan for each new shape, which takes tens of milliseconds.
    """
    if sdpa_kernel is None:  # and no attention of cuDNN
        return nullcontext()
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Return softmax(query keyᵀ / sqrt(C) + mask) value, for (B, H, L, C) each; the mask None is the causal one."""
    if VERSION >= (2, 0):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
    scores = query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)  # scaled first, as fp16 could overflow
    if mask is None:
        mask = scores.new_full(scores.shape[-2:], float("-inf")).triu(1)
    return (scores + mask).softmax(dim=-1).to(value.dtype) @ value


class _LeaveUnset(TorchFunctionMode):
    """Leaves random weights unset within the block.

    To draw them on the meta device, which has none, torch would import its compiler, which takes 2 s.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (nn.init.normal_, Tensor.normal_):  # who calls them does not use what they return
            return None
        return func(*args, **(kwargs or {}))


def build_empty(build: Callable[[], Module]) -> Module:
    """Return a module whose weights will be replaced by `copy_weights`; no random numbers are drawn for them."""
    if VERSION >= (2, 1):
        with torch.device("meta"), _LeaveUnset():
            return build()
    with torch.random.fork_rng(devices=[]):
        return build()


def copy_weights(module: nn.Module, weights: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Give an empty module copies of weights in a dtype."""
    if VERSION >= (2, 1):
        copies = {name: weight.detach().to(dtype, copy=True) for name, weight in weights.items()}
        module.load_state_dict(copies, assign=True)
    else:
        module.to(dtype).load_state_dict(weights)

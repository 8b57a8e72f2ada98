"""The precision in which towers encode images and queries; scores are always computed in fp32."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal, get_args

import torch

from rtd_plugin.clip.old_torch import select_attention_kernels
from rtd_plugin.errors import UsageError

Precision = Literal["fp32", "tf32", "bf16"]


def choose_precision(precision: Precision | None, device: torch.device) -> Precision:
    """Return a precision, by default the device's: TF32 on a GPU, fp32 elsewhere.

    Raises:
        UsageError: the device lacks it.
    """
    if precision is None:
        return "tf32" if device.type == "cuda" else "fp32"
    if precision not in get_args(Precision):
        raise UsageError(f"precision: {precision!r} is not one of {', '.join(get_args(Precision))}")
    if precision == "tf32" and device.type != "cuda":
        raise UsageError(f"precision: tf32 needs a GPU, and the device is {device}: pass fp32 or bf16")
    return precision


@contextmanager
def compute_in(precision: Precision, device: torch.device) -> Iterator[None]:
    """Compute in a precision within the block, with chosen attention kernels and without gradients."""
    with (
        torch.no_grad(),
        select_attention_kernels(),
        torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"),
        _use_tf32(precision == "tf32") if device.type == "cuda" else nullcontext(),
    ):
        yield


@contextmanager
def _use_tf32(enabled: bool) -> Iterator[None]:
    cudnn = torch.backends.cudnn  # has its own switch, on by default
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if enabled else "highest")
    cudnn.allow_tf32 = enabled
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32 = before[1]

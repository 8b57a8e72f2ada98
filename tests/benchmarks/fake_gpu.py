"""A GPU without data and without a device, to count what a step does on one.

Torch's fake tensors have a device, a shape and a dtype, and no data. Operations on those of `cuda` are dispatched as on
a GPU, autocast included. Three things need a driver, or look for a device, and have a stand-in here:

* torch chooses the kernel of attention by the device's properties: here it is the memory-efficient kernel, the one that
  takes masks;
* autograd's engine asks the driver for streams: here the recorded graph is walked in Python, with the same functions;
* autocast, optimizers and accelerate ask whether there is a GPU: here there is.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

GPU = torch.device("cuda", 0)
FAKE = FakeTensorMode(allow_non_fake_inputs=True)


@contextmanager
def use_fake_gpu() -> Iterator[None]:
    """Make tensors without data within the block, those of a GPU included; what looks at data is an error."""
    with (
        patch("torch.cuda.is_available", return_value=True),
        patch("torch.cuda.is_bf16_supported", return_value=True),
        patch("torch.cuda.is_current_stream_capturing", return_value=False),
        patch.dict(PartialState._shared_state, device=GPU),
        patch.dict(AcceleratorState._shared_state, device=GPU),
        patch.object(FakeTensorMode, "avoid_device_init", True),
        patch("rtd_plugin.clip.transformer.attend", attend),
        patch.object(Tensor, "backward", run_backward),
        FAKE,
    ):
        yield


def move(module: nn.Module, dtype: torch.dtype, trained: bool) -> nn.Module:
    """Give a module's parameters another dtype, on the GPU; `Module.to` cannot without data."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(parameter.detach().to(GPU, dtype), requires_grad=trained)
    return module


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Attend with the memory-efficient kernel, as `scaled_dot_product_attention` calls it."""
    scores = *query.shape[:3], key.shape[2]
    kept = torch.is_grad_enabled() and query.requires_grad
    return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, mask.expand(scores), kept)[0]


def run_backward(loss: Tensor) -> None:
    """Add the gradients of a loss to the parameters', as `loss.backward()` does."""
    with torch.no_grad():
        for parameter, gradient in _walk([loss], [torch.ones_like(loss)]):
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def _walk(outputs: Sequence[Tensor], seeds: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Call the functions of a graph; yield its leaves with their gradients."""
    waiting: dict[Any, int] = {}  # functions of the graph, and from how many others gradients are to come
    gradients: dict[Any, dict[int, Tensor]] = {}  # by function, then by index of its result
    found = [output.grad_fn for output in outputs]
    seen = set(found)
    while found:
        for following, _ in found.pop().next_functions:
            if following is not None:
                waiting[following] = waiting.get(following, 0) + 1
                if following not in seen:
                    seen.add(following)
                    found.append(following)

    def receive(function: Any, index: int, gradient: Tensor | None) -> None:
        received = gradients.setdefault(function, {})
        if gradient is not None:
            expected = function._input_metadata[index]
            if gradient.shape != expected.shape:  # a bias, whose gradient is a sum
                gradient = gradient.sum_to_size(expected.shape)
            gradient = gradient.to(expected.dtype)
            received[index] = received[index] + gradient if index in received else gradient

    for output, seed in zip(outputs, seeds, strict=True):
        receive(output.grad_fn, output.output_nr, seed)
    ready = [function for function in seen if not waiting.get(function) and function in gradients]
    while ready:
        function = ready.pop()
        received = gradients.pop(function)
        if hasattr(function, "variable"):
            if 0 in received:
                yield function.variable, received[0]
            continue
        call = function.apply if isinstance(function, torch.autograd.function.BackwardCFunction) else function
        results = call(*(received.get(index) for index in range(len(function._input_metadata))))
        results = results if isinstance(results, tuple) else (results,)
        edges = function.next_functions
        for (following, index), result in zip(edges, results[len(results) - len(edges) :], strict=True):
            if following is not None:
                receive(following, index, result)
                waiting[following] -= 1
                if not waiting[following]:
                    ready.append(following)

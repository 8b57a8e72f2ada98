"""How many kernels torch's compiler makes for a GPU of the functions that `compile: true` compiles.

While a step runs on the fake GPU, calls of these functions are left out of the count. Each is traced, forward and
backward, with tensors without data, and lowered for Triton up to the compiler's scheduler, which decides what is fused
by the shapes and the device's properties: here those of an H100. No code is generated. A matrix product and attention
are one kernel each. Shapes are those of the batch, where a run has symbols.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import MagicMock, Mock, patch

import torch
from fake_gpu import FAKE, GPU, attend
from operations import Operations
from torch import Tensor, nn
from torch._functorch import config as functorch_config
from torch._functorch.aot_autograd import aot_module_simplified, make_boxed_func
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.fx_passes.joint_graph import joint_graph_passes
from torch._inductor.fx_passes.post_grad import post_grad_passes
from torch._inductor.graph import GraphLowering
from torch._inductor.ir import MultiOutput
from torch._inductor.runtime.hints import DeviceProperties
from torch._inductor.scheduler import NopKernelSchedulerNode
from torch._inductor.virtualized import V
from torch.func import functional_call
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from rtd_plugin.clip.tower import TextTower
from rtd_plugin.engine.packed_tower import PackedTower, embed, run_block
from rtd_plugin.engine.prefix_tree import PackedTexts
from rtd_plugin.training.loss import rtd_loss

H100 = {"major": 9, "multi_processor_count": 132, "warp_size": 32}
H100 |= {"regs_per_multiprocessor": 65536, "max_threads_per_multi_processor": 2048}


class CompiledGraphs:
    """Leaves calls of the functions that are compiled out of a count of operations, and counts their graphs' kernels.

    Args:
        operations: the count.
        encoders: ψ and ψ₀.
        step: its `contrast` computes the loss.
    """

    def __init__(self, operations: Operations, encoders: Sequence[PackedTower], step: Any):
        self._operations, self._encoders, self._step = operations, encoders, step
        self._calls: list[_Call] = []

    @contextmanager
    def leave_out(self) -> Iterator[None]:
        """Leave the functions out of the count within the block."""
        with ExitStack() as stack:
            for encoder in self._encoders:
                stack.enter_context(patch.object(encoder, "_embed", self._embed))
            stack.enter_context(patch("rtd_plugin.engine.packed_tower.run_block", self._run_block))
            stack.enter_context(patch.object(self._step, "contrast", self._compute_loss))
            yield

    def count(self) -> dict[str, int]:
        """Return the kernels of the graphs of all calls, forward and backward."""
        known: dict[Any, list[int]] = {}
        for call in self._calls:
            if call.key not in known:
                known[call.key] = _count_kernels(call)
        counts = [known[call.key] for call in self._calls]
        return {"forward": sum(count[0] for count in counts), "backward": sum(sum(count[1:]) for count in counts)}

    def _run_block(
        self, block: nn.Module, weights: dict[str, Tensor], x: Tensor, mask: Tensor, rows: Tensor | None = None
    ) -> Tensor:
        parameters = {**dict(block.named_parameters()), **weights}

        def compute(x: Tensor, mask: Tensor, rows: Tensor | None, *values: Tensor) -> Tensor:
            return run_block(block, dict(zip(parameters, values, strict=True)), x, mask, rows)

        return self._call("block", compute, [x, mask, rows, *parameters.values()])

    def _embed(self, tower: TextTower, texts: PackedTexts, pseudo_tokens: Tensor | None, dtype: torch.dtype) -> Any:
        names = ["token_embedding.weight", "positional_embedding"]
        constants = {name: value for name, value in vars(tower.token_embedding).items() if isinstance(value, Tensor)}

        def compute(pseudo_tokens: Tensor | None, *tensors: Tensor) -> Any:
            given = iter(tensors)
            weights = {f"tower.{name}": next(given) for name in names}
            with patch.dict(vars(tower.token_embedding), {name: next(given) for name in constants}):
                return functional_call(_Embed(tower), weights, (PackedTexts(*given), pseudo_tokens, dtype))

        weights = [tower.get_parameter(name) for name in names]
        return self._call("embed", compute, [pseudo_tokens, *weights, *constants.values(), *vars(texts).values()])

    def _compute_loss(self, queries: Tensor, targets: Tensor, temperature: float) -> Tensor:
        def compute(queries: Tensor, targets: Tensor) -> Tensor:
            return rtd_loss(queries, targets, temperature)

        return self._call("loss", compute, [queries, targets])

    def _call(self, name: str, function: Callable[..., Any], inputs: list[Tensor | None]) -> Any:
        self._calls.append(_Call(name, function, inputs, torch.is_autocast_enabled("cuda"), torch.is_grad_enabled()))
        return _LeftOut.apply(self._operations, function, *inputs)


class _Call:
    """A call of a function."""

    def __init__(
        self, name: str, function: Callable[..., Any], inputs: list[Tensor | None], autocast: bool, grad: bool
    ):
        self.function, self.inputs, self.autocast, self.grad = function, inputs, autocast, grad
        forms = [tensor if tensor is None else (tensor.shape, tensor.dtype, tensor.requires_grad) for tensor in inputs]
        self.key = name, autocast, grad, tuple(forms)


class _Embed(nn.Module):
    """`embed` as a module, whose parameters can be replaced."""

    def __init__(self, tower: TextTower):
        super().__init__()
        self.tower = tower

    def forward(self, *args: Any) -> Any:
        return embed(self.tower, *args)


class _LeftOut(torch.autograd.Function):
    """Calls a function without counting its operations, nor those of its backward pass."""

    @staticmethod
    def forward(ctx: Any, operations: Operations, function: Callable[..., Any], *inputs: Tensor | None) -> Any:
        ctx.save_for_backward(*inputs)
        operations.paused = True
        outputs = function(*inputs)
        operations.paused = False
        if isinstance(outputs, tuple):
            ctx.mark_non_differentiable(outputs[1])  # the mask
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        needed = zip(ctx.saved_tensors, ctx.needs_input_grad[2:], strict=True)
        return None, None, *(torch.empty_like(tensor) if needs else None for tensor, needs in needed)


class _Traced(nn.Module):
    """A call to trace."""

    def __init__(self, call: _Call):
        super().__init__()
        self.call = call

    def forward(self, *tensors: Tensor) -> tuple[Any, ...]:
        given = iter(tensors)
        inputs = [None if tensor is None else next(given) for tensor in self.call.inputs]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.call.autocast):
            outputs = self.call.function(*inputs)
        return outputs if isinstance(outputs, tuple) else (outputs,)


def _count_kernels(call: _Call) -> list[int]:
    """Return the kernels of a call's graphs: forward and, with gradients, backward."""
    counts = []

    def compile_graph(module: torch.fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        counts.append(_lower(module, inputs))
        return make_boxed_func(module.forward)

    def partition(module: torch.fx.GraphModule, inputs: Sequence[Any], **options: Any) -> Any:
        joint_graph_passes(module)
        return min_cut_rematerialization_partition(module, inputs, compiler="inductor", **options)

    properties = DeviceProperties(type="cuda", index=0, cc=90, **H100)
    with (
        patch("rtd_plugin.clip.transformer.attend", attend),
        patch.object(DeviceProperties, "create", return_value=properties),
        patch("torch.cuda.get_device_properties", return_value=Mock(**H100)),
        patch("torch.cuda.get_device_capability", return_value=(9, 0)),
        patch("torch._inductor.scheduler.has_triton", return_value=True),
        functorch_config.patch(force_non_lazy_backward_lowering=True),
        FAKE,
        torch.set_grad_enabled(call.grad),
    ):
        inputs = [
            tensor.detach().cpu().requires_grad_(tensor.requires_grad) for tensor in call.inputs if tensor is not None
        ]
        aot_module_simplified(
            _Traced(call),
            inputs,
            fw_compiler=compile_graph,
            bw_compiler=compile_graph,
            inference_compiler=compile_graph,
            partition_fn=partition,
            decompositions=select_decomp_table(),
        )
    return counts


def _lower(module: torch.fx.GraphModule, inputs: Sequence[Any]) -> int:
    """Move a graph to the fake GPU, and return how many kernels the compiler makes of it."""
    module = copy.deepcopy(module)
    for node in module.graph.nodes:
        if "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": GPU}
        if node.op == "get_attr":
            setattr(module, node.target, getattr(module, node.target).to(GPU))
    moved = [value.to(GPU) if isinstance(value, Tensor) else value for value in inputs]
    FakeTensorProp(module, mode=FAKE).propagate_dont_convert_inputs(*moved)
    with V.set_fake_mode(FAKE):
        post_grad_passes(module, is_inference=not torch.is_grad_enabled())
        FakeTensorProp(module, mode=FAKE).propagate_dont_convert_inputs(*moved)
        graph = GraphLowering(module, example_inputs=moved)
        with V.set_graph_handler(graph), V.set_debug_handler(MagicMock()):
            graph.run(*moved)
            graph.init_wrapper_code()
            graph._update_scheduler()
            nodes = graph.scheduler.nodes
    return sum(
        not isinstance(node, NopKernelSchedulerNode) and not isinstance(node.node, MultiOutput) for node in nodes
    )

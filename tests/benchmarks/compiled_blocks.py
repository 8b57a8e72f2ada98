"""How many kernels torch's compiler makes of the blocks of a GPU's step, counted after it has fused them.

Small blocks are compiled for this CPU: what is fused depends on neither their size nor, but for details, the device.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from operations import Operations
from torch import nn

from rtd_plugin.clip.tower import TextTower
from rtd_plugin.engine.packed_tower import run_block

GROUPS, NODES, WIDTH = 4, 128, 64


def count_saved_kernels(layers: int) -> int:
    """Return by how much a step's operations are more than its kernels with `compile: true`, for towers of a depth."""
    saved = 0
    for trained in (True, False):
        for last, times in ((False, layers - 1), (True, 1)):
            saved += times * (_count_operations(trained, last) - _count_kernels(trained, last))
    return saved


def _build_block(trained: bool) -> nn.Module:
    block = TextTower(width=WIDTH, layers=1, features=WIDTH, vocabulary=1).transformer.resblocks[0]
    return block.requires_grad_(True) if trained else block.requires_grad_(False).bfloat16()


def _run(block: nn.Module, trained: bool, last: bool) -> None:
    """Run a block forward and, if it is trained, backward, on states in the dtypes of a step."""
    x = torch.randn(GROUPS, NODES, WIDTH, dtype=torch.float32 if trained else torch.bfloat16, requires_grad=trained)
    mask = torch.zeros(GROUPS, 1, NODES, NODES, dtype=torch.bfloat16)
    rows = torch.arange(0, GROUPS * NODES, 16) if last else None
    with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(trained):
        states = run_block(block, x, mask, rows)
    if trained:
        states.backward(torch.ones_like(states))


def _count_operations(trained: bool, last: bool) -> int:
    block = _build_block(trained)
    with Operations() as operations:
        _run(block, trained, last)
    made = ("randn", "zeros", "arange", "ones_like")  # not by the block
    return sum(count for name, count in operations.counts.items() if name not in made)


def _count_kernels(trained: bool, last: bool) -> int:
    torch._dynamo.reset()
    block = _build_block(trained)
    block.compile(dynamic=True)
    with _record_graphs() as graphs:
        _run(block, trained, last)
    assert len(graphs) == 1 + trained, "a block is one graph, and another for its backward pass"
    rounding = 2 * trained  # of weights and of gradients, outside the graphs
    return sum(map(len, graphs)) + rounding


@contextmanager
def _record_graphs() -> Iterator[list[Sequence[Any]]]:
    """Record the kernels of each graph that is compiled within the block."""
    from torch._functorch.config import patch as no_cache
    from torch._inductor import config
    from torch._inductor.ir import MultiOutput
    from torch._inductor.scheduler import NopKernelSchedulerNode

    graphs: list[Sequence[Any]] = []

    def record(nodes: list[Any]) -> list[Any]:
        kernels = [node for node in nodes if not isinstance(node, NopKernelSchedulerNode)]
        graphs.append([node for node in kernels if not isinstance(node.node, MultiOutput)])  # an output of another one
        return nodes

    with config.patch(_post_fusion_custom_pass=record, fx_graph_cache=False), no_cache(enable_autograd_cache=False):
        yield graphs

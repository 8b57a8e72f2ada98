"""The kernels and the CPU work of a GPU's training step, counted without a GPU.

    python tests/benchmarks/kernels.py [--tower ViT-L-14] [--triplets 128] [--batches 400]
        [--captions FILE --conditions FILE]

The step is the engine's for a GPU, in bf16 autocast, with batches in the few shapes that CUDA graphs need. It runs on
tensors without data (torch's fake tensors), so it takes seconds at any size, and any wait for the device,
to read data, is an error. Counted are ATen operations without views, about a kernel each: 929 a step of
ViT-L/14, where a profiler on an H200 finds 981 kernels. The tensors are on the CPU, since autograd needs a driver for
those of a GPU; autocast casts the same there.

Times are this machine's: `hidden` is the prefetching thread's time for a batch, `main` the main thread's time before
it can replay a graph.
"""

import argparse
import copy
import json
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import RATE, TOWERS, PairedTexts, add_text_options, build_projection, build_tower, make_run
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from rtd_plugin.engine.cuda_graphs import _list_tensors
from rtd_plugin.engine.frozen_encoder import PackedFrozen
from rtd_plugin.engine.packed_tower import PackedTower
from rtd_plugin.engine.partial_embedding import embed_used_tokens
from rtd_plugin.engine.prefetching import PrefetchedBatches
from rtd_plugin.training.batches import Batch, RunBatches, map_device_tensors, stack_tokens
from rtd_plugin.training.loop import make_accelerator
from rtd_plugin.training.run import Run
from rtd_plugin.training.step import compute_loss

GPU = torch.device("cuda")
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
FAKE = FakeTensorMode(allow_non_fake_inputs=True)


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


def copy_rounded(module: nn.Module) -> nn.Module:
    """Return a copy in bf16; `Module.to` cannot change parameters without data."""
    module = copy.deepcopy(module)
    for part in module.modules():
        for name, parameter in part._parameters.items():
            part._parameters[name] = nn.Parameter(parameter.bfloat16(), requires_grad=False)
    return module


class Step:
    """The parts of a GPU's step, with weights without data."""

    def __init__(self, run: Run):
        self.settings, self.run = run.recipe.objective, run
        with FAKE, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Accessing the data pointer")  # copying looks for it
            replaced = {id(run.tower.token_embedding): embed_used_tokens(run, run.tower.device)}
            tower = copy.deepcopy(run.tower, replaced).requires_grad_(True)
            frozen = copy_rounded(run.tower), copy_rounded(run.projection)
        self.encoder, self.frozen = PackedTower(tower, GPU), PackedFrozen(*frozen)
        self.frozen.encoder.device = GPU
        self.optimizer = torch.optim.AdamW(tower.parameters(), RATE, weight_decay=0.01, fused=True)
        self.batches = RunBatches(run, make_accelerator(run.recipe), self.encoder.prepare, self.frozen)

    def make_batch(self, index: int) -> Batch:
        """Make a batch as the prefetching thread does, without pinned memory, which needs a GPU."""
        batch = self.batches[index]
        captions = self.frozen.encoder.prepare(stack_tokens(batch.targets, batch.references))
        return replace(batch, packed_captions=captions)

    def count(self, batch: Batch) -> dict[str, Counter[str]]:
        """Return the operations of forward, backward and optimizer."""
        batch = map_device_tensors(FAKE.from_tensor, batch)

        def compute() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return compute_loss(batch, self.encoder, self.frozen, self.settings)

        def update() -> None:
            self.optimizer.step()
            self.optimizer.zero_grad()

        counts = {}
        with FAKE:
            counts["forward"], loss = _count(compute)
            counts["backward"], _ = _count(loss.backward)
            counts["optimizer"], _ = _count(update)
        return counts


def _count(function: Callable[[], Any]) -> tuple[Counter[str], Any]:
    with Operations() as operations:
        result = function()
    return operations.counts, result


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Count a step's operations, a run's shapes, and the time that batches take."""
    with tempfile.TemporaryDirectory() as folder:
        with FAKE:
            tower = build_tower(args.tower)
            projection = build_projection(tower)
        source = PairedTexts(captions=args.captions, conditions=args.conditions)
        run = make_run(tower, projection, source, Path(folder), args.triplets, precision="fp32")
        step = Step(run)
        step.count(step.make_batch(0))  # the optimizer's state is made in it
        counts = step.count(step.make_batch(1))
        shapes, began = set(), time.thread_time()
        for index in range(args.batches):
            shapes.add(tuple(tensor.shape for tensor in _list_tensors(step.make_batch(index))))
        hidden = time.thread_time() - began
        ahead = PrefetchedBatches(_Ready(step.make_batch(0)), lambda batch: batch)
        began = time.thread_time()
        for index in range(args.batches):
            tuple(tensor.shape for tensor in _list_tensors(ahead[index]))
        main = time.thread_time() - began
    casts = sum(count["_to_copy"] for count in counts.values())
    return {
        "operations": {name: sum(count.values()) for name, count in counts.items()},
        "casts": casts,
        "most": sum(counts.values(), Counter()).most_common(12),
        "synchronisations": 0,  # one would have been an error
        "shapes": len(shapes),
        "hidden_ms": 1e3 * hidden / args.batches,
        "main_ms": 1e3 * main / args.batches,
    }


class _Ready:
    """The same batch again and again."""

    def __init__(self, batch: Batch):
        self.batch = batch

    def __getitem__(self, index: int) -> Batch:
        return self.batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tower", default="ViT-L-14", choices=TOWERS)
    parser.add_argument("--triplets", type=int, default=128)
    parser.add_argument("--batches", type=int, default=400)
    add_text_options(parser)
    print(json.dumps(measure(parser.parse_args()), indent=2))


if __name__ == "__main__":
    main()

"""The kernels and the CPU work of a GPU's training step, counted without a GPU.

    python tests/benchmarks/kernels.py [--tower ViT-L-14] [--triplets 128] [--batches 400]
        [--captions FILE --conditions FILE] [--without-compiler]

The step is the engine's for a GPU, in bf16 autocast, with batches in the few shapes that CUDA graphs need. It runs on
tensors without data (torch's fake tensors), so it takes seconds at any size, and whatever would wait for the device,
because it looks at data, is an error. Counted are ATen operations without views, about a kernel each: 761 a step of
ViT-L/14; of an earlier step they were 929, where a profiler on an H200 found 981 kernels. The tensors are on the CPU,
since autograd needs a driver for those of a GPU; autocast casts the same there, and attention is one operation.

`compiled` is the step with `compile: true`: the operations of a block are replaced by the kernels that torch's compiler
makes of it, counted after it has fused them. It compiles small blocks for this CPU, which takes a minute and a C++
compiler; what it fuses depends on neither the size nor, but for details, the device. Leave it out with
--without-compiler.

Times are this machine's: `hidden` is what the thread that makes batches ahead takes for one, `main` what is left to the
main thread before it can replay a graph, `between` the time from batch to batch if the main thread does nothing else.
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
from compiled_blocks import count_saved_kernels
from operations import Operations
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

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
FAKE = FakeTensorMode(allow_non_fake_inputs=True)


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
        shapes, octets, began = set(), 0, time.thread_time()
        for index in range(args.batches):
            tensors = _list_tensors(step.make_batch(index))
            shapes.add(tuple(tensor.shape for tensor in tensors))
            octets += sum(tensor.nbytes for tensor in tensors)
        hidden = time.thread_time() - began
        ahead = PrefetchedBatches(_Ready(step.make_batch(0)), lambda batch: batch)
        began = time.thread_time()
        for index in range(args.batches):
            tuple(tensor.shape for tensor in _list_tensors(ahead[index]))
        main = time.thread_time() - began
        ahead, began = PrefetchedBatches(_Made(step), lambda batch: batch), time.monotonic()
        for index in range(args.batches):
            ahead[index]
        between = time.monotonic() - began
    casts = sum(count["_to_copy"] for count in counts.values())
    operations = {name: sum(count.values()) for name, count in counts.items()}
    total = sum(operations.values())
    return {
        "operations": operations,
        "total": total,
        "compiled": total - count_saved_kernels(TOWERS[args.tower].layers) if args.compiler else None,
        "casts": casts,
        "most": sum(counts.values(), Counter()).most_common(12),
        "synchronisations": 0,  # one would have been an error
        "shapes": len(shapes),
        "copied_kb": octets / args.batches / 1e3,
        "hidden_ms": 1e3 * hidden / args.batches,
        "main_ms": 1e3 * main / args.batches,
        "between_ms": 1e3 * between / args.batches,
    }


class _Made:
    """A step's batches, made when they are asked for."""

    def __init__(self, step: Step):
        self.step = step

    def __getitem__(self, index: int) -> Batch:
        return self.step.make_batch(index)


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
    parser.add_argument("--without-compiler", dest="compiler", action="store_false")
    add_text_options(parser)
    print(json.dumps(measure(parser.parse_args()), indent=2))


if __name__ == "__main__":
    main()

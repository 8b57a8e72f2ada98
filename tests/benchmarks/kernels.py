"""The kernels and the CPU work of a GPU's training step, counted without a GPU.

    python tests/benchmarks/kernels.py [--tower ViT-L-14] [--triplets 128] [--batches 400]
        [--captions FILE --conditions FILE] [--without-compiler]

The step is that of `rtd-plugin train` on a GPU (`Trainer.take_step` with the engine's parts), in bf16, on the largest
of the few shapes of the batches. It runs on tensors of a GPU without data (`fake_gpu.py`), so it takes seconds at any
size, and whatever would wait for the device, because it looks at data, is an error. Counted are ATen operations without
views, and the kernels that a GPU runs for them (`operations.py`), with memory-efficient attention.

`compiled` is the step with `compile: true`: the functions that are compiled are replaced by the kernels that torch's
compiler makes of them for an H100 (`compiled_graphs.py`). Leave it out with --without-compiler.

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
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from common import RATE, TOWERS, PairedTexts, add_text_options, build_projection, build_tower, make_run
from compiled_graphs import CompiledGraphs
from fake_gpu import FAKE, GPU, move, run_backward, use_fake_gpu
from operations import Operations
from torch import Tensor

from rtd_plugin.engine.frozen_encoder import PackedFrozen
from rtd_plugin.engine.packed_tower import PackedTower
from rtd_plugin.engine.partial_embedding import embed_used_tokens
from rtd_plugin.engine.prefetching import PrefetchedBatches
from rtd_plugin.training.batches import Batch, RunBatches, list_device_tensors, map_device_tensors, stack_tokens
from rtd_plugin.training.loop import make_accelerator
from rtd_plugin.training.loss import rtd_loss
from rtd_plugin.training.plain import Engine, Update
from rtd_plugin.training.run import Run
from rtd_plugin.training.trainer import Trainer


class Step:
    """The parts of a GPU's step, with weights without data."""

    def __init__(self, run: Run):
        self.run = run
        accelerator = make_accelerator(run.recipe)
        accelerator.device_placement = False
        with use_fake_gpu(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Accessing the data pointer")  # copying looks for it
            replaced = {id(run.tower.token_embedding): embed_used_tokens(run, GPU)}
            tower = move(copy.deepcopy(run.tower, replaced), torch.float32, trained=True)
            frozen = [move(copy.deepcopy(module), torch.bfloat16, False) for module in (run.tower, run.projection)]
            self.encoder, self.frozen = PackedTower(tower, GPU), PackedFrozen(*frozen)
            self.batches = RunBatches(run, accelerator, self.encoder.prepare, self.frozen)
            self.taken: dict[int, Batch] = {}
            self.contrast = rtd_loss
            engine = Engine(
                tower, self.encoder, self.frozen, self.taken, _copy_loss, lambda *args: self.contrast(*args)
            )
            with patch.object(Tensor, "__bool__", lambda rate: True):  # AdamW checks its rate once
                self.trainer = Trainer(run, accelerator, lambda run, accelerator: engine)

    def make_batch(self, index: int) -> Batch:
        """Make a batch as the prefetching thread does, without pinned memory, which needs a GPU."""
        batch = self.batches[index]
        captions = self.frozen.encoder.prepare(stack_tokens(batch.targets, batch.references))
        return replace(batch, packed_captions=captions)

    def count(self, index: int, compiler: bool = False) -> dict[str, dict[str, Counter[str]]]:
        """Take a step; return its operations and their kernels, by name, of forward, backward and optimizer.

        Args:
            index: of the batch.
            compiler: count the kernels of graphs in place of the operations that are compiled with `compile: true`.
        """
        operations, marks = Operations(), [(Counter[str](), Counter[str]())]

        def mark() -> None:
            marks.append((Counter(operations.counts), Counter(operations.kernels)))

        def backward(loss: Tensor) -> None:
            mark()
            run_backward(loss)
            mark()

        batch = self.make_batch(index)
        graphs = CompiledGraphs(operations, [self.encoder, self.frozen.encoder], self)
        with use_fake_gpu():
            # As a graph has them: copies into its tensors are no kernels.
            self.taken[index] = map_device_tensors(lambda tensor: FAKE.from_tensor(tensor).to(GPU), batch)
            with (
                patch.object(Tensor, "backward", backward),
                graphs.leave_out() if compiler else nullcontext(),
                operations,
            ):
                self.trainer.take_step(index, RATE)
            mark()
        counts = {}
        for name, before, after in zip(("forward", "backward", "optimizer"), marks, marks[1:], strict=False):
            counts[name] = {"operations": after[0] - before[0], "kernels": after[1] - before[1]}
        for name, count in graphs.count().items():
            counts[name]["kernels"]["compiled"] = count
        return counts


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Count a step's operations, a run's shapes, and the time that batches take."""
    with tempfile.TemporaryDirectory() as folder:
        with FAKE:
            tower = build_tower(args.tower)
            projection = build_projection(tower)
        source = PairedTexts(captions=args.captions, conditions=args.conditions)
        run = make_run(tower, projection, source, Path(folder), args.triplets, precision="bf16")
        step = Step(run)
        shapes, octets, began = {}, 0, time.thread_time()
        for index in range(args.batches):
            tensors = list_device_tensors(step.make_batch(index))
            shapes[tuple(tensor.shape for tensor in tensors)] = index
            octets += sum(tensor.nbytes for tensor in tensors)
        hidden = time.thread_time() - began
        ahead = PrefetchedBatches(_Ready(step.make_batch(0)), lambda batch: batch)
        began = time.thread_time()
        for index in range(args.batches):
            tuple(tensor.shape for tensor in list_device_tensors(ahead[index]))
        main = time.thread_time() - began
        ahead, began = PrefetchedBatches(_Made(step), lambda batch: batch), time.monotonic()
        for index in range(args.batches):
            ahead[index]
        between = time.monotonic() - began
        step.count(0)  # the optimizer's state is made in it
        largest = shapes[max(shapes, key=lambda shape: sum(size.numel() for size in shape))]
        result = {"eager": _summarise(step.count(largest))}
        if args.compiler:
            result["compiled"] = _summarise(step.count(largest, compiler=True))
    return result | {
        "synchronisations": 0,  # one would have been an error
        "shapes": len(shapes),
        "copied_kb": octets / args.batches / 1e3,
        "hidden_ms": 1e3 * hidden / args.batches,
        "main_ms": 1e3 * main / args.batches,
        "between_ms": 1e3 * between / args.batches,
    }


def _summarise(counts: dict[str, dict[str, Counter[str]]]) -> dict[str, Any]:
    names = sum((count["kernels"] for count in counts.values()), Counter[str]())
    return {
        "operations": {name: count["operations"].total() for name, count in counts.items()},
        "kernels": {name: count["kernels"].total() for name, count in counts.items()},
        "total": names.total(),
        "most": dict(names.most_common(12)),
    }


def _copy_loss(update: Update) -> Update:
    """Copy the loss, as it is out of a graph."""
    return lambda batch: update(batch).clone()


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

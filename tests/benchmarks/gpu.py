"""Training on a GPU: correctness and speed, against two other implementations of the step.

    python tests/benchmarks/gpu.py [--towers ViT-B-32,ViT-L-14,ViT-H-14] [--triplets 128,512] [--steps 30]
        [--captions FILE --conditions FILE] [--minutes 10] [--output FILE.json]

Each case runs in a separate process. First losses of 12 steps, the last of which are replayed from graphs: the engine
in fp32, bf16, fp16, compiled, and under data parallelism of one process, against the plain pair in fp32. Then the speed
of these sides on the same triplets:

* `authors`: every text padded to 77 tokens, reference captions encoded twice, an AdamW that is not fused, fp16 autocast
  with a gradient scaler: the cost of the authors' step;
* `good`: padded to the batch's longest text, flash attention, bf16 autocast, fused AdamW, blocks compiled;
* `plain` (if asked for): `engine: plain`, bf16;
* `engine`: `engine: fast`, bf16; `compiled`: the same with `compile: true`.

On a machine without a GPU it runs on the CPU, where kernels are not counted.
"""

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import RATE, TOWERS, PairedTexts, add_text_options, build_projection, build_tower, make_run
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from rtd_plugin.clip.tower import TextTower
from rtd_plugin.engine.build import build_engine
from rtd_plugin.engine.prefetching import PrefetchedBatches
from rtd_plugin.training.batches import stack_tokens
from rtd_plugin.training.frozen import PlainFrozen
from rtd_plugin.training.loop import make_accelerator
from rtd_plugin.training.loss import rtd_loss
from rtd_plugin.training.plain import build_plain
from rtd_plugin.training.run import Run
from rtd_plugin.training.trainer import Trainer

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CORRECT = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 5e-3, "compiled": 2e-2, "ddp": 2e-2}  # of the loss, relative
SIDES = ("authors", "good", "engine", "compiled")
CHECKED = 12  # steps whose losses are compared
WARM_UP = 8
SECONDS = 5  # for the warm-up of shapes, and about as much for the steps that count
SYNCHRONISATIONS = ("Synchronize", "cudaMemcpy ")


class HandWritten:
    """The two steps that the engine is measured against; `authors` or `good`."""

    def __init__(self, run: Run, side: str):
        self.authors = side == "authors"
        self.dtype = torch.float16 if self.authors else torch.bfloat16
        self.tower = build_tower_like(run.tower).to(DEVICE).requires_grad_(True)
        frozen = build_tower_like(run.tower).to(DEVICE, self.dtype)
        self.frozen = PlainFrozen(frozen, copy.deepcopy(run.projection).to(DEVICE, self.dtype))
        self.optimizer = torch.optim.AdamW(
            self.tower.parameters(), RATE, weight_decay=0.01, fused=not self.authors, foreach=self.authors
        )
        self.scaler = torch.amp.GradScaler(DEVICE.type, enabled=self.authors and DEVICE.type == "cuda")
        if not self.authors and DEVICE.type == "cuda":
            for tower in (self.tower, frozen):
                for block in tower.transformer.resblocks:
                    block.compile(dynamic=True)
        self.tokens = 0
        self.batches = PrefetchedBatches(build_plain(run, make_accelerator(run.recipe)).batches, lambda batch: batch)

    def pad(self, tokens: Tensor) -> Tensor:
        length = 77 if self.authors else -(-tokens.shape[1] // 8) * 8
        return torch.nn.functional.pad(tokens, (0, length - tokens.shape[1])).to(DEVICE, non_blocking=True)

    def encode(self, tower: TextTower, tokens: Tensor, pseudo_tokens: Tensor | None = None) -> Tensor:
        """Encode all positions, as `encode_with_hidden_states` does, without reading the data."""
        ends = tokens.argmax(dim=1)
        x = tower.token_embedding(tokens)
        if pseudo_tokens is not None:
            x = torch.where((tokens == 259).unsqueeze(-1), pseudo_tokens.unsqueeze(1).to(x.dtype), x)
        x = tower.transformer(x + tower.positional_embedding[: x.shape[1]])
        return tower.ln_final(x[torch.arange(len(x), device=x.device), ends]) @ tower.text_projection

    def take_step(self, index: int, rate: float) -> Tensor:
        batch = self.batches[index]
        flash = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
        with sdpa_kernel(flash), torch.autocast(DEVICE.type, self.dtype):
            with torch.no_grad():
                captions = self.pad(stack_tokens(batch.targets, batch.references))
                targets = self.encode(self.frozen.tower, captions)
                references = targets.chunk(2)[1]
                if self.authors:
                    references = self.encode(self.frozen.tower, self.pad(batch.references))
                noised = references + batch.noise.to(DEVICE, references.dtype, non_blocking=True)
                pseudo_tokens = self.frozen.project(noised.to(self.dtype), batch.queries)
            queries = self.pad(stack_tokens(batch.queries, batch.unconditioned))
            features = self.encode(self.tower, queries, pseudo_tokens.repeat(2, 1))
            loss = rtd_loss(features, targets)
        self.tokens = 3 * queries.numel() + captions.numel() + (len(targets) // 2 * 77 if self.authors else 0)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return loss.detach()


def build_tower_like(tower: TextTower) -> TextTower:
    return TextTower.from_state_dict(tower.state_dict(), heads=tower.heads)


class Ours:
    """A run's own step, `plain` or `engine`."""

    def __init__(self, run: Run, side: str):
        self.trainer = Trainer(run, make_accelerator(run.recipe), build_plain if side == "plain" else build_engine)
        self.take_step = self.trainer.take_step
        self.side = side

    @property
    def tokens(self) -> int:
        """Positions that a step computes, a position with gradients counted three times."""
        batch = self.trainer._engine.batches[0]
        queries = batch.composed.tokens.numel()
        if batch.packed_captions is not None:
            return 3 * queries + batch.packed_captions.tokens.numel()
        return 3 * queries + batch.targets.numel() + batch.references.numel()


def measure(take_step: Callable[[int, float], Tensor], steps: int) -> dict[str, Any]:
    """Return what a step takes, after a warm-up."""
    losses = [take_step(index, RATE) for index in range(WARM_UP)]
    index = WARM_UP
    if DEVICE.type == "cuda":
        # Further steps, so that the captures and compilations of most shapes are done.
        torch.cuda.synchronize()
        began = time.perf_counter()
        while index < WARM_UP + 40 and time.perf_counter() - began < SECONDS:
            losses.append(take_step(index, RATE))
            index += 1
            torch.cuda.synchronize()
        steps = max(3, min(steps, int(steps * SECONDS / (time.perf_counter() - began))))
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(3):
        thread, process, wall = time.thread_time(), time.process_time(), time.perf_counter()
        for _ in range(steps // 3):
            losses.append(take_step(index, RATE))
            index += 1
        host, hidden = time.thread_time() - thread, time.process_time() - process
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        times.append((time.perf_counter() - wall, host, hidden - host))
    wall, host, hidden = sorted(times)[1]
    result = {
        "ms": 1e3 * wall / (steps // 3),
        "host_ms": 1e3 * host / (steps // 3),
        "hidden_ms": 1e3 * hidden / (steps // 3),
        "losses": [float(loss) for loss in losses[:5]],
    }
    if DEVICE.type == "cuda":
        result |= {
            "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
            "reserved_gb": torch.cuda.max_memory_reserved() / 1e9,
        }
        result |= count_kernels(take_step, index)
    return result


def count_kernels(take_step: Callable[[int, float], Tensor], index: int, steps: int = 5) -> dict[str, Any]:
    """Return kernels, launches and waits a step, the share of time without a kernel, and the longest gap."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for offset in range(steps):
            take_step(index + offset, RATE)
        torch.cuda.synchronize()
    kernels, launches, waits = [], 0, 0
    for event in profile.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            kernels.append((event.time_range.start, event.time_range.end, event.name))
        elif "Launch" in event.name:
            launches += 1
        elif any(name in f"{event.name} " for name in SYNCHRONISATIONS):
            waits += 1
    kernels = sorted(kernel for kernel in kernels if not kernel[2].startswith(("Mem", "Activity", "ProfilerStep")))
    busy, end, gaps = 0.0, kernels[0][0], []
    for start, stop, _ in kernels:
        gaps.append(max(0.0, start - end))
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    span = end - kernels[0][0]
    times: dict[str, float] = {}
    for start, stop, name in kernels:
        times[name[:60]] = times.get(name[:60], 0.0) + (stop - start) / steps
    largest = sorted(times.items(), key=lambda item: -item[1])[:12]
    return {
        "kernels": len(kernels) / steps,
        "launches": launches / steps,
        "synchronisations": (waits - 1) / steps,  # less the one at the end
        "idle": 1 - busy / span,
        "longest_gap_us": max(gaps),
        "busy_ms": busy / steps / 1e3,
        "largest_us": {name: round(time) for name, time in largest},
    }


def matmul_peak(width: int) -> float:
    """Return the operations a second of this device in large bf16 matrix products."""
    rows = 16384 if DEVICE.type == "cuda" else 512
    left = torch.randn(rows, width, device=DEVICE, dtype=torch.bfloat16)
    right = torch.randn(width, 4 * width, device=DEVICE, dtype=torch.bfloat16)
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(20):
            left @ right
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 20 * 8 * rows * width**2 / (time.perf_counter() - began))
    return best


def run_case(args: argparse.Namespace) -> None:
    """Measure one side and print it as JSON."""
    source = PairedTexts(captions=args.captions, conditions=args.conditions)
    tower = build_tower(args.tower)
    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {"precision": args.precision, "compile": args.compile, "shuffle": False}
        run = make_run(tower, build_projection(tower), source, Path(folder), args.batch, **settings)
        side = HandWritten(run, args.case) if args.case in ("authors", "good") else Ours(run, args.case)
        if args.only_losses:
            result: dict[str, Any] = {"losses": [float(side.take_step(index, RATE)) for index in range(CHECKED)]}
        else:
            result = measure(side.take_step, args.steps)
            size = TOWERS[args.tower]
            operations = 2 * 12 * size.width**2 * size.layers * side.tokens
            result["tokens"] = side.tokens
            result["peak_share"] = operations / (result["ms"] / 1e3) / matmul_peak(size.width)
    print(json.dumps(result))


def start_case(args: argparse.Namespace, **options: Any) -> dict[str, Any]:
    command = [sys.executable, __file__, "--steps", str(args.steps)]
    for name in ("captions", "conditions"):
        if getattr(args, name):
            command += [f"--{name}", getattr(args, name)]
    environment = dict(os.environ)
    if options.pop("ddp", False):
        environment |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        environment |= {"MASTER_PORT": "29517"}
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        command += [option] if value is True else [] if value is False else [option, str(value)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-4:]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def check(args: argparse.Namespace, tower: str) -> dict[str, Any]:
    """Compare losses of the first steps with those of the plain pair in fp32."""
    case = {"tower": tower, "batch": 32, "only_losses": True}
    expected = start_case(args, case="plain", precision="fp32", **case)["losses"]
    gpu = DEVICE.type == "cuda"
    cases = {"fp32": {"precision": "fp32"}, "bf16": {"precision": "bf16"}}
    if gpu:
        cases |= {"fp16": {"precision": "fp16"}, "compiled": {"precision": "bf16", "compile": True}}
        cases |= {"ddp": {"precision": "bf16", "ddp": True}}
    results = {}
    for name, options in cases.items():
        answer = start_case(args, case="engine", **case, **options)
        if "error" in answer:
            results[name] = answer
            continue
        difference = max(abs(a - b) / b for a, b in zip(answer["losses"], expected, strict=True))
        results[name] = {"difference": difference, "bound": CORRECT[name], "right": difference < CORRECT[name]}
        print(f"{name}: losses differ by {difference:.1e} of themselves (bound {CORRECT[name]:.0e})", flush=True)
    return results


COLUMNS = {
    "ms": ("ms a step", "{:.2f}"),
    "triplets": ("triplets/s", "{:,.0f}"),
    "peak_share": ("share of peak", "{:.0%}"),
    "kernels": ("kernels", "{:.0f}"),
    "launches": ("launches", "{:.0f}"),
    "synchronisations": ("waits", "{:.1f}"),
    "idle": ("idle", "{:.0%}"),
    "longest_gap_us": ("longest gap, µs", "{:.0f}"),
    "host_ms": ("host, ms", "{:.2f}"),
    "hidden_ms": ("hidden host, ms", "{:.2f}"),
    "peak_gb": ("peak, GB", "{:.2f}"),
    "reserved_gb": ("reserved, GB", "{:.2f}"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--towers", default="ViT-B-32,ViT-L-14,ViT-H-14" if DEVICE.type == "cuda" else "tiny")
    parser.add_argument("--triplets", default="128,512" if DEVICE.type == "cuda" else "8")
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--steps", type=int, default=30 if DEVICE.type == "cuda" else 3)
    parser.add_argument("--minutes", type=float, default=10, help="no case starts later than this")
    parser.add_argument("--without-check", action="store_true")
    parser.add_argument("--output", type=Path, help="a JSON file of all figures")
    add_text_options(parser)
    for option in ("--case", "--tower", "--precision"):
        parser.add_argument(option, help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    for flag in ("--compile", "--only-losses"):
        parser.add_argument(flag, action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        run_case(args)
        return
    began = time.monotonic()
    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "CPU"
    results: dict[str, Any] = {"device": name, "torch": torch.__version__, "cases": []}
    towers = args.towers.split(",")
    if not args.without_check:
        results["check"] = check(args, towers[0])
    print(f"\n{name}, torch {torch.__version__}\n")
    print("| tower | triplets | side | " + " | ".join(title for title, _ in COLUMNS.values()) + " |")
    print("|---" * (3 + len(COLUMNS)) + "|", flush=True)
    for tower in towers:
        for triplets in map(int, args.triplets.split(",")):
            for side in args.sides.split(","):
                if time.monotonic() - began > 60 * args.minutes:
                    print(f"| {tower} | {triplets} | {side} | not run: no time |")
                    continue
                precision = "bf16" if DEVICE.type == "cuda" else "fp32"
                options = {"tower": tower, "batch": triplets, "precision": precision}
                options |= {"case": "engine", "compile": True} if side == "compiled" else {"case": side}
                result = start_case(args, **options)
                results["cases"].append({"tower": tower, "triplets": triplets, "side": side, **result})
                if "error" in result:
                    print(f"| {tower} | {triplets} | {side} | {result['error']} |", flush=True)
                    continue
                result["triplets"] = 1e3 * triplets / result["ms"]
                cells = [form.format(result[key]) if key in result else "" for key, (_, form) in COLUMNS.items()]
                print(f"| {tower} | {triplets} | {side} | " + " | ".join(cells) + " |", flush=True)
                if args.output:
                    args.output.write_text(json.dumps(results, indent=2))
    wrong = [name for name, result in results.get("check", {}).items() if not result.get("right")]
    if wrong or any("error" in case for case in results["cases"]):
        sys.exit(f"not right: {', '.join(wrong) or 'a case failed'}")


if __name__ == "__main__":
    main()

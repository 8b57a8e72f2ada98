"""How fast RTD trains, against a step with the cost profile of the authors' own.

    python tests/benchmarks/speed.py steps [--tower ViT-B-32] [--triplets 32] [--threads 1] [--steps 7]
        [--captions FILE --conditions FILE] [--authors REPOSITORY --authors-python PYTHON [--without-explicit]]

Captions are the last column of a tab-separated file, conditions the field `caption` of a JSON list (as CIRR's are);
without them the miniature's triplets are used. Weights are random: speed does not depend on them.

`steps` runs four sides, each in a separate process, one step each in turn, on the same triplets with the same noise:

* `explicit`: every text padded to 77 tokens, reference captions encoded twice, all positions of every layer computed,
  an AdamW that is not fused. This is the cost of the authors' step, with faster attention; tokenising is not counted.
* `authors`: where their repository is given, their functions in the order of their loop, with prepared tokens.
* `first epoch`: `rtd-plugin train`'s step when it sees the captions for the first time; tokens are read from the store.
* `cached`: the same, with the captions' features in the cache.
"""

import argparse
import copy
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rtd_plugin.workflows.huge_pages import use_huge_pages

BEGAN = time.perf_counter()  # start of a side's process, before slow imports
use_huge_pages()  # as `rtd-plugin train` does

import torch  # noqa: E402
from common import (  # noqa: E402
    RATE,
    SEED,
    TOWERS,
    PairedTexts,
    add_text_options,
    build_projection,
    build_tower,
    make_run,
)
from rtd_adapters.lincir import LinCIR  # noqa: E402

from rtd_plugin.clip.layouts import write_state_dict  # noqa: E402
from rtd_plugin.clip.tokens import END, START  # noqa: E402
from rtd_plugin.engine.build import build_engine  # noqa: E402
from rtd_plugin.training.batches import NOISE, make_batch, make_noise, stack_tokens  # noqa: E402
from rtd_plugin.training.loop import make_accelerator  # noqa: E402
from rtd_plugin.training.loss import rtd_loss  # noqa: E402
from rtd_plugin.training.order import stream_seed  # noqa: E402
from rtd_plugin.training.run import Run  # noqa: E402
from rtd_plugin.training.trainer import Trainer  # noqa: E402
from rtd_plugin.triplets.token_store import open_token_store  # noqa: E402


def build_run(args: argparse.Namespace, folder: Path) -> Run:
    """Return a run in fp32, its triplets in file order."""
    tower = build_tower(args.tower)
    source = PairedTexts(captions=args.captions, conditions=args.conditions)
    settings: dict[str, Any] = {"precision": "fp32", "shuffle": False}
    return make_run(tower, build_projection(tower), source, folder, args.triplets, **settings)


def prepare(args: argparse.Namespace, folder: Path) -> None:
    """Write the inputs of the other sides."""
    run = build_run(args, folder)
    tower = run.tower
    batches = []
    for index in range(args.steps):
        rows = torch.arange(index * args.triplets, (index + 1) * args.triplets).numpy()
        batch = make_batch(run.triplets.gather(rows), run.adapter, 77)
        padding = torch.zeros(1, 77, dtype=torch.int64)
        noise = make_noise((args.triplets, tower.features), 0.5, stream_seed(SEED, NOISE, index, 0))
        fields = ("references", "targets", "queries", "unconditioned")
        batches.append({"noise": noise, **{name: stack_tokens(padding, getattr(batch, name))[1:] for name in fields}})
    config = {
        "vocab_size": 49408,
        "hidden_size": tower.width,
        "intermediate_size": 4 * tower.width,
        "projection_dim": tower.features,
        "num_hidden_layers": len(tower.transformer.resblocks),
        "num_attention_heads": tower.heads,
        "hidden_act": "quick_gelu",
        "bos_token_id": START,
        "eos_token_id": END,
    }
    prepared = {"config": config, "batches": batches, "projection": run.projection.state_dict(), "learning_rate": RATE}
    torch.save(prepared | {"huggingface": write_state_dict(tower.state_dict(), "huggingface")}, folder / "prepared.pt")


class Explicit:
    """What the authors' step computes."""

    def __init__(self, args: argparse.Namespace, folder: Path):
        run = build_run(args, folder)
        self.frozen, self.projection = run.tower, run.projection
        self.tower = copy.deepcopy(run.tower).requires_grad_(True)
        self.batches = torch.load(folder / "prepared.pt", weights_only=True, mmap=True)["batches"]
        self.optimizer = torch.optim.AdamW(self.tower.parameters(), lr=RATE, weight_decay=0.01)

    def take(self, index: int) -> float:
        batch = self.batches[index]
        with torch.no_grad():
            targets, _ = self.frozen.encode_with_hidden_states(torch.cat([batch["targets"], batch["references"]]))
            references, _ = self.frozen.encode_with_hidden_states(batch["references"])
            pseudo_tokens = self.projection(references + batch["noise"])
        tokens = torch.cat([batch["queries"], batch["unconditioned"]])
        queries, _ = self.tower.encode_with_hidden_states(tokens, pseudo_tokens.repeat(2, 1))
        loss = rtd_loss(queries, targets)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


class Ours:
    """The step of a run; `cached` has the captions' features computed before."""

    def __init__(self, args: argparse.Namespace, folder: Path):
        run = build_run(args, folder)
        self.trainer = Trainer(run, make_accelerator(run.recipe), build_engine)
        engine = self.trainer._engine
        if args.side == "cached":
            for index in range(args.steps):
                engine.frozen.features(engine.batches[index])
        size = TOWERS[args.tower]
        self.width = size.width
        self.weights = 12 * size.width**2 * size.layers  # of all blocks

    def take(self, index: int) -> float:
        return self.trainer.take_step(index, RATE).item()

    def count_operations(self, index: int, cached: bool) -> int:
        """Return the floating-point operations of a step's matrix products in blocks, attention left out."""
        batch = self.trainer._engine.batches[index]
        passes = 3 * int((batch.composed.subtree_ends < batch.composed.tokens.shape[1]).sum())
        if not cached:
            captions = self.trainer._engine.frozen.encoder.prepare(stack_tokens(batch.targets, batch.references))
            passes += int((captions.subtree_ends < captions.tokens.shape[1]).sum())
        return 2 * passes * self.weights


def side(args: argparse.Namespace) -> None:
    """Answer one line of stdin after the other: take that step."""
    torch.set_num_threads(args.threads)
    folder = Path(args.folder)
    if args.side == "first epoch":
        os.environ["RTD_PLUGIN_CACHE"] = str(folder / "empty")
    answers, sys.stdout = sys.stdout, sys.stderr
    taker = Explicit(args, folder) if args.side == "explicit" else Ours(args, folder)
    print(json.dumps({"ready": time.perf_counter() - BEGAN}), file=answers, flush=True)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        loss = taker.take(int(line))
        answer = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "loss": loss}
        answer["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if isinstance(taker, Ours):
            answer["operations"] = taker.count_operations(int(line), args.side == "cached")
            answer["matmul"] = matmul_peak(taker.width, args.threads)
        print(json.dumps(answer), file=answers, flush=True)


def matmul_peak(width: int, threads: int) -> float:
    """Multiply-adds a second that this machine reaches in large matrix products, as operations a second of CPU time."""
    rates = []
    for rows in (512, 1024, 2048):
        left, right = torch.randn(rows, width), torch.randn(width, 4 * width)
        out = torch.empty(rows, 4 * width)
        repeats = max(1, int(2e10 / (8 * rows * width**2)))
        for _ in range(3):
            began = time.process_time()
            for _ in range(repeats):
                torch.mm(left, right, out=out)
            rates.append(repeats * 8 * rows * width**2 / (time.process_time() - began) * threads)
    return max(rates)


class Side:
    """A side's process."""

    def __init__(self, command: Sequence[str]):
        self.answers: list[dict[str, float]] = []
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ready = json.loads(self.process.stdout.readline())["ready"]

    def take(self, index: int) -> None:
        print(index, file=self.process.stdin, flush=True)
        self.answers.append(json.loads(self.process.stdout.readline()))

    def median(self, name: str) -> float:
        return statistics.median(answer[name] for answer in self.answers[1:])  # the first one warms up

    def times(self, other: "Side") -> float:
        """How many times as fast as another side, step by step: a machine's speed changes with its neighbours' work."""
        pairs = zip(other.answers[1:], self.answers[1:], strict=True)
        return statistics.median(slow["cpu"] / fast["cpu"] for slow, fast in pairs)


def steps(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(args, folder)
        os.environ |= {"OMP_NUM_THREADS": str(args.threads), "RTD_PLUGIN_CACHE": str(folder / "cache")}
        for cache in ("cache", "empty"):
            os.environ["RTD_PLUGIN_CACHE"] = str(folder / cache)
            open_token_store([PairedTexts(captions=args.captions, conditions=args.conditions).load()], LinCIR.prompt)
        os.environ["RTD_PLUGIN_CACHE"] = str(folder / "cache")
        own = [sys.executable, __file__, "side", "--folder", temporary, *common(args)]
        commands = {} if args.without_explicit else {"explicit": [*own, "--side", "explicit"]}
        if args.authors:
            script = str(Path(__file__).with_name("authors_step.py"))
            commands["authors"] = [args.authors_python, script, args.authors, temporary, str(args.threads)]
        commands |= {name: [*own, "--side", name] for name in ("first epoch", "cached")}
        sides = {name: Side(command) for name, command in commands.items()}
        for index in range(args.steps):
            for one in sides.values():
                one.take(index)
            losses = {name: one.answers[-1]["loss"] for name, one in sides.items()}
            print(f"step {index + 1}/{args.steps}: losses {losses}", file=sys.stderr, flush=True)
        for one in sides.values():
            one.process.stdin.close()
            one.process.wait()
    report(args, sides)


def report(args: argparse.Namespace, sides: dict[str, Side]) -> None:
    base = "authors" if "authors" in sides else "explicit"
    print(
        f"\n{args.tower}, {args.triplets} triplets, {args.threads} thread(s), fp32, medians of {args.steps - 1} steps\n"
    )
    print("| side | s a step | CPU s | triplets/s | times explicit | times authors | of peak | peak MB |")
    print("|---|---|---|---|---|---|---|---|")
    for name, one in sides.items():
        wall, cpu = one.median("seconds"), one.median("cpu")
        peak = max(answer["peak_mb"] for answer in one.answers)
        ratios = [f"{one.times(sides[other]):.1f}" if other in sides else "" for other in ("explicit", "authors")]
        share = ""
        if "operations" in one.answers[0]:
            # Each step against the products right after it: threads that wait burn CPU time in both.
            reached = statistics.median(
                answer["operations"] / answer["cpu"] * args.threads / answer["matmul"] for answer in one.answers[1:]
            )
            share = f"{100 * reached:.0f} %"
        memory = f"{peak:,.0f} ({peak / max(answer['peak_mb'] for answer in sides[base].answers):.2f})"
        rate = f"{args.triplets / wall:.1f}"
        print(f"| {' | '.join([name, f'{wall:.2f}', f'{cpu:.2f}', rate, *ratios, share, memory])} |")
    reference = [answer["loss"] for answer in sides[base].answers]
    for name, one in sides.items():
        worst = max(abs(a["loss"] - b) / b for a, b in zip(one.answers, reference, strict=True))
        print(f"largest difference of a loss, {name} to {base}: {worst:.1e}")
    print(f"start-up: {', '.join(f'{name} {one.ready:.1f} s' for name, one in sides.items() if name != 'authors')}")


def common(args: argparse.Namespace) -> list[str]:
    texts = ["--captions", args.captions, "--conditions", args.conditions] if args.captions else []
    return ["--tower", args.tower, "--triplets", str(args.triplets), "--threads", str(args.threads), *texts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["steps", "side"], help="the last one: by the program itself")
    parser.add_argument("--tower", choices=list(TOWERS), default="ViT-B-32")
    parser.add_argument("--triplets", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=7)
    add_text_options(parser)
    parser.add_argument("--authors", help="their repository, unpacked")
    parser.add_argument("--authors-python", default=sys.executable)
    parser.add_argument("--without-explicit", action="store_true", help="where memory is short: only with --authors")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.without_explicit and not args.authors:
        parser.error("--without-explicit needs --authors")
    {"steps": steps, "side": side}[args.what](args)


if __name__ == "__main__":
    main()

"""How fast RTD trains, against a step with the cost profile of the authors' own.

    python tests/benchmarks/speed.py steps [--tower ViT-B-32] [--triplets 32] [--threads 1] [--steps 7]
        [--captions FILE --conditions FILE] [--authors REPOSITORY --authors-python PYTHON [--without-explicit]]

Captions are the last column of a tab-separated file, conditions the field `caption` of a JSON list (as CIRR's are);
without them the miniature's triplets serve. Weights are random: speed does not depend on them.

`steps` runs four sides, each in a process of its own, one step each in turn, on the same triplets with the same noise:

* `explicit`: every text padded to 77 tokens, reference captions encoded twice, all positions of every layer computed,
  an AdamW that is not fused. That is what the authors' step costs, with a faster attention; tokenising is not counted.
* `authors`: where their repository is given, their own functions in the order of their own loop, tokens ready made.
* `first epoch`: `rtd-plugin train`'s step when it sees the captions for the first time; tokens are read from the store.
* `kept`: the same, with the captions' features there.
"""

import argparse
import copy
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from rtd_plugin.engine.allocator import use_huge_pages

BEGAN = time.perf_counter()  # of a side's process, before what takes long to import
use_huge_pages()  # as `rtd-plugin train` does

import torch  # noqa: E402
from rtd_adapters.lincir import LinCIR  # noqa: E402
from rtd_adapters.phi import Phi  # noqa: E402
from rtd_plugin.engine.batch_groups import window  # noqa: E402

from rtd_plugin.clip import packing  # noqa: E402
from rtd_plugin.clip.backbones import Backbone  # noqa: E402
from rtd_plugin.clip.fingerprint import digest, probe  # noqa: E402
from rtd_plugin.clip.layouts import write_state_dict  # noqa: E402
from rtd_plugin.clip.tokens import END, START  # noqa: E402
from rtd_plugin.clip.tower import TextTower  # noqa: E402
from rtd_plugin.miniature.triplets import MiniatureTriplets  # noqa: E402
from rtd_plugin.training.batches import make_batch, stream_seed  # noqa: E402
from rtd_plugin.training.loop import make_accelerator  # noqa: E402
from rtd_plugin.training.objective import rtd_loss, stack  # noqa: E402
from rtd_plugin.training.recipe import Recipe  # noqa: E402
from rtd_plugin.training.run import Run  # noqa: E402
from rtd_plugin.training.step import NOISE, Stepper  # noqa: E402
from rtd_plugin.triplets.token_store import open_token_store, tokenise_triplet  # noqa: E402
from rtd_plugin.triplets.triplet import Triplet, TripletSet, TripletSource  # noqa: E402

TOWERS = {"ViT-B-32": 512, "ViT-L-14": 768, "miniature": 128}  # width, which is the features' size too
LAYERS = {"miniature": 3}
RATE = 1e-5
SEED = 12345


class Real(TripletSource):
    """Captions and conditions put together as they come."""

    name: ClassVar[str] = "real"

    captions: str | None = None
    conditions: str | None = None

    def load(self) -> TripletSet:
        if self.captions is None:
            return MiniatureTriplets(count=20000).load()
        lines = Path(self.captions).read_text(encoding="utf-8").splitlines()
        captions = [line.split("\t")[-1] for line in lines if line.strip()]
        random.Random(0).shuffle(captions)
        conditions = [record["caption"] for record in json.loads(Path(self.conditions).read_text(encoding="utf-8"))]
        random.Random(0).shuffle(conditions)
        pairs = zip(captions[::2], captions[1::2], strict=False)
        triplets = [
            Triplet(reference, conditions[number % len(conditions)], target)
            for number, (reference, target) in enumerate(pairs)
        ]
        return TripletSet(triplets, f"{self.captions} {self.conditions}")


def build_tower(name: str) -> TextTower:
    torch.manual_seed(0)
    width = TOWERS[name]
    return TextTower(width=width, features=width, layers=LAYERS.get(name, 12), heads=width // 64)


def make_run(args: argparse.Namespace, folder: Path) -> Run:
    """A run such as `load_run` gives, of a random tower."""
    tower = torch.load(folder / "tower.pt", weights_only=True, mmap=True)
    tower = TextTower.from_state_dict(tower).eval().requires_grad_(False)
    projection = Phi(tower.features, tower.width).eval().requires_grad_(False)
    projection.load_state_dict(torch.load(folder / "projection.pt", weights_only=True))
    source = Real(captions=args.captions, conditions=args.conditions)
    recipe = Recipe(
        adapter="lincir",
        backbone=Backbone(model="ViT-B-32"),
        projection=folder / "projection.pt",
        triplets=[source],
        batch_size=args.triplets,
        precision="fp32",
        shuffle=False,
        seed=SEED,
    )
    part = source.load()
    return Run(
        recipe=recipe,
        folder=folder,
        adapter=LinCIR(),
        tower=tower,
        projection=projection,
        triplets=open_token_store([part], LinCIR.prompt),
        skipped=0,
        base_digest=digest(tower),
        base_probe=probe(tower),
        projection_digest="",
        triplet_digests=[part.digest],
    )


def prepare(args: argparse.Namespace, folder: Path) -> None:
    """Everything that all sides start from."""
    tower, adapter = build_tower(args.tower), LinCIR()
    projection = Phi(tower.features, tower.width)
    torch.save(tower.state_dict(), folder / "tower.pt")
    torch.save(projection.state_dict(), folder / "projection.pt")
    triplets = iter(Real(captions=args.captions, conditions=args.conditions).load().triplets)
    batches = []
    for number in range(args.steps):
        texts = [tokenise_triplet(triplet, adapter.prompt) for triplet in islice(triplets, args.triplets)]
        batch = make_batch(texts, adapter, 77)
        padding = torch.zeros(1, 77, dtype=torch.int64)
        generator = torch.Generator().manual_seed(stream_seed(SEED, NOISE, number, 0))
        strength = torch.rand(args.triplets, 1, generator=generator)
        noise = 0.5 * strength * torch.randn(args.triplets, tower.features, generator=generator)
        fields = ("references", "targets", "queries", "unconditioned")
        batches.append({"noise": noise, **{name: stack(padding, getattr(batch, name))[1:] for name in fields}})
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
    prepared = {"config": config, "batches": batches, "projection": projection.state_dict(), "learning_rate": RATE}
    torch.save(prepared | {"huggingface": write_state_dict(tower.state_dict(), "huggingface")}, folder / "prepared.pt")


class Explicit:
    """What the authors' step computes."""

    def __init__(self, args: argparse.Namespace, folder: Path):
        self.frozen = TextTower.from_state_dict(torch.load(folder / "tower.pt", weights_only=True, mmap=True))
        self.tower = copy.deepcopy(self.frozen)
        self.frozen.requires_grad_(False)
        self.projection = Phi(self.tower.features, self.tower.width).eval().requires_grad_(False)
        self.projection.load_state_dict(torch.load(folder / "projection.pt", weights_only=True))
        self.batches = torch.load(folder / "prepared.pt", weights_only=True, mmap=True)["batches"]
        self.optimizer = torch.optim.AdamW(self.tower.parameters(), lr=RATE, weight_decay=0.01)

    def take(self, number: int) -> float:
        batch = self.batches[number]
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
    """The step of a run; `work` counts its tokens and floating-point operations."""

    def __init__(self, args: argparse.Namespace, folder: Path):
        run = make_run(args, folder)
        self.stepper = Stepper(run, make_accelerator(run.recipe))
        self.passes, self.operations, self.width = 0, 0, run.tower.width
        self.layers = len(run.tower.transformer.resblocks)
        pack = packing.pack

        def counted(*given: Any) -> packing.Packing:
            packed = pack(*given)
            nodes, kinds, read = len(packed.kinds), len(packed.tokens), len(packed.ends)
            passes = 3 if torch.is_grad_enabled() else 1
            # In W² multiplications, attention left out; first, middle and last layers.
            whole = 3 * kinds + 9 * nodes + 12 * nodes * (self.layers - 2) + 2 * nodes + 10 * read
            self.passes += passes * nodes
            self.operations += 2 * passes * whole * self.width**2
            return packed

        packing.pack = counted

    def take(self, number: int) -> float:
        self.passes = self.operations = 0
        return self.stepper.take(number, RATE)

    def shared(self, number: int) -> dict[str, float]:
        """What is done for all steps of a window together, before the first of them: a step's share of it."""
        here = window(number, self.stepper.windows.longest)
        if number == here[0]:
            self.passes = self.operations = 0
            wall, cpu = time.perf_counter(), time.process_time()
            self.stepper.windows.batch(number)
            whole = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
            whole |= {"passes": self.passes, "operations": self.operations}
            self.share = {name: value / len(here) for name, value in whole.items()}
        return self.share


def side(args: argparse.Namespace) -> None:
    """Answer one line of stdin after the other: take that step."""
    torch.set_num_threads(args.threads)
    folder = Path(args.folder)
    answers, sys.stdout = sys.stdout, sys.stderr
    taker = Explicit(args, folder) if args.side == "explicit" else Ours(args, folder)
    print(json.dumps({"ready": time.perf_counter() - BEGAN}), file=answers, flush=True)
    for line in sys.stdin:
        shared = taker.shared(int(line)) if isinstance(taker, Ours) else {}
        wall, cpu = time.perf_counter(), time.process_time()
        loss = taker.take(int(line))
        answer = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "loss": loss}
        if isinstance(taker, Ours):
            answer |= {"passes": taker.passes, "operations": taker.operations}
        answer |= {name: answer[name] + share for name, share in shared.items()}
        answer["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if isinstance(taker, Ours):
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

    def take(self, number: int) -> None:
        print(number, file=self.process.stdin, flush=True)
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
        open_token_store([Real(captions=args.captions, conditions=args.conditions).load()], LinCIR.prompt)
        own = [sys.executable, __file__, "side", "--folder", temporary, *common(args)]
        commands = {} if args.without_explicit else {"explicit": [*own, "--side", "explicit"]}
        if args.authors:
            script = str(Path(__file__).with_name("authors_step.py"))
            commands["authors"] = [args.authors_python, script, args.authors, temporary, str(args.threads)]
        commands |= {"first epoch": [*own, "--side", "ours"], "kept": [*own, "--side", "ours"]}
        sides = {name: Side(command) for name, command in commands.items()}
        for number in range(args.steps):
            for one in sides.values():
                one.take(number)
            losses = {name: one.answers[-1]["loss"] for name, one in sides.items()}
            print(f"step {number + 1}/{args.steps}: losses {losses}", file=sys.stderr, flush=True)
        for one in sides.values():
            one.process.stdin.close()
            one.process.wait()
    report(args, sides)


def report(args: argparse.Namespace, sides: dict[str, Side]) -> None:
    base = "authors" if "authors" in sides else "explicit"
    print(
        f"\n{args.tower}, {args.triplets} triplets, {args.threads} thread(s), fp32, medians of {args.steps - 1} steps\n"
    )
    print(
        "| side | s a step | CPU s | triplets/s | times explicit | times authors | token passes/s | of peak | peak MB |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name, one in sides.items():
        wall, cpu = one.median("seconds"), one.median("cpu")
        peak = max(answer["peak_mb"] for answer in one.answers)
        ratios = [f"{one.times(sides[other]):.1f}" if other in sides else "" for other in ("explicit", "authors")]
        passes = share = ""
        if "passes" in one.answers[0]:
            passes = f"{one.median('passes') / wall:,.0f}"
            # Each step against the products right after it. Threads that wait for each other burn CPU time, of the
            # same kind in the step and in the products.
            reached = statistics.median(
                answer["operations"] / answer["cpu"] * args.threads / answer["matmul"] for answer in one.answers[1:]
            )
            share = f"{100 * reached:.0f} %"
        memory = f"{peak:,.0f} ({peak / max(answer['peak_mb'] for answer in sides[base].answers):.2f})"
        rate = f"{args.triplets / wall:.1f}"
        print(f"| {' | '.join([name, f'{wall:.2f}', f'{cpu:.2f}', rate, *ratios, passes, share, memory])} |")
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
    parser.add_argument("--captions")
    parser.add_argument("--conditions")
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

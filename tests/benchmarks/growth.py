"""How starting a run grows with its triplets: seconds to make the token store, seconds and memory once it is there.

    python tests/benchmarks/growth.py [--sizes 10000 100000 1000000 10000000] [--kinds jsonl parquet] [--distinct]
        [--captions FILE --conditions FILE] [--folder /tmp]

For each size and kind a file of so many triplets is written: real ones, as `speed.py` takes them, again and again; with
`--distinct` a number at the end of each caption makes all captions different. On it a run of ViT-B/32's text tower (of
random weights) is started as `rtd-plugin train` starts one, each time in a process of its own:

* without a store, with one processor and with two: seconds from the file to the finished store, texts a second of that
  and of tokenising alone, and by how much the process's own memory grew meanwhile, at most;
* with the store of the last one: seconds to open the triplets, seconds from the process's beginning to its first step,
  and memory after three steps: the process's own, and files mapped into it.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

BEGAN = time.perf_counter()  # before what takes long to import

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import torch  # noqa: E402
from common import RATE, SEED, PairedTexts, build_tower  # noqa: E402
from rtd_adapters.phi import Phi  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from rtd_plugin.clip.backbones import Backbone  # noqa: E402
from rtd_plugin.clip.tokens import encode_text  # noqa: E402
from rtd_plugin.engine.build import build_engine  # noqa: E402
from rtd_plugin.training import run as module  # noqa: E402
from rtd_plugin.training.loop import make_accelerator  # noqa: E402
from rtd_plugin.training.recipe import Recipe  # noqa: E402
from rtd_plugin.training.trainer import Trainer  # noqa: E402
from rtd_plugin.triplets.json_source import JsonTriplets  # noqa: E402
from rtd_plugin.triplets.sources import ParquetSource  # noqa: E402
from rtd_plugin.triplets.triplet import Triplet  # noqa: E402

TOWER = "ViT-B-32"
ROWS = 100_000  # that are written at once
KEYS = ("caption", "edit", "output")


def triplets_of(args: argparse.Namespace, count: int) -> Iterator[Triplet]:
    real = PairedTexts(captions=args.captions, conditions=args.conditions).load().triplets
    for number, triplet in enumerate(islice(cycle(real), count)):
        reference, condition, target = triplet
        yield Triplet(f"{reference} {number}", condition, f"{target} {number}") if args.distinct else triplet


def write(path: Path, triplets: Iterator[Triplet]) -> None:
    if path.suffix == ".jsonl":
        with path.open("w", encoding="utf-8") as file:
            for triplet in triplets:
                file.write(json.dumps(dict(zip(KEYS, triplet, strict=True)), ensure_ascii=False) + "\n")
        return
    schema = pa.schema([(name, pa.string()) for name in Triplet._fields])
    with pq.ParquetWriter(path, schema) as writer:
        while rows := list(islice(triplets, ROWS)):
            writer.write_table(pa.table([pa.array(column) for column in zip(*rows, strict=True)], schema=schema))


def memory(name: str) -> float:
    """What the process holds, MB: RssAnon its own, RssFile of files."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(lines[name].split()[0]) / 1024


def start(args: argparse.Namespace) -> None:
    """Start a run on a file, take steps, and tell what that took."""
    if args.processors:
        os.sched_setaffinity(0, range(args.processors))
    torch.set_num_threads(1)
    folder, path = Path(args.folder), Path(args.file)
    recipe = Recipe(
        adapter="lincir",
        backbone=Backbone(model=TOWER, checkpoint=folder / "tower.safetensors"),
        projection=folder / "projection.pt",
        triplets=[(JsonTriplets if path.suffix == ".jsonl" else ParquetSource)(path=path)],
        batch_size=32,
        precision="fp32",
        seed=SEED,
    )
    encode_text("the tokenizer is loaded")
    figures = {"peak": 0.0}

    def time_function(name, function):
        def timing(*arguments):
            began, figures["before"] = time.perf_counter(), memory("RssAnon")
            result = function(*arguments)
            figures[name] = time.perf_counter() - began
            return result

        return timing

    def advance(done: int, total: int) -> None:
        figures["peak"] = max(figures["peak"], memory("RssAnon"))

    module.open_source, module.open_token_store = (
        time_function("opened", module.open_source),
        time_function("tokens", module.open_token_store),
    )
    run = module.load_run(recipe, folder / "run", advance)
    if args.steps:
        trainer = Trainer(run, make_accelerator(recipe), build_engine)
        figures["ready"] = time.perf_counter() - BEGAN
        for step in range(args.steps):
            trainer.take_step(step, RATE)
    figures |= {"texts": run.triplets.texts, "own": memory("RssAnon"), "files": memory("RssFile")}
    print(json.dumps(figures))


def grow(args: argparse.Namespace, folder: Path, size: int, kind: str) -> None:
    path, cache = folder / f"triplets.{kind}", folder / "cache"
    write(path, triplets_of(args, size))
    own = [sys.executable, __file__, "--folder", str(folder), "--file", str(path)]

    def measure(*options: str) -> dict[str, float]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "RTD_PLUGIN_CACHE": str(cache)}
        return json.loads(subprocess.run([*own, *options], env=environment, stdout=subprocess.PIPE, check=True).stdout)

    cells = [f"{size:,}", kind, f"{path.stat().st_size / 1e6:,.0f}"]
    for processors in (1, 2):
        shutil.rmtree(cache, ignore_errors=True)
        made = measure("--processors", str(processors))
        whole = made["opened"] + made["tokens"]
        cells += [f"{whole:.1f} s: {3 * size / whole:,.0f}", f"{3 * size / made['tokens']:,.0f}"]
    again = measure("--steps", "3")
    store = sum(file.stat().st_size for file in (cache / "tokens").rglob("*") if file.is_file())
    cells += [f"{made['peak'] - made['before']:,.0f}", f"{made['texts']:,}", f"{store / 1e6:,.0f}"]
    cells += [f"{again['opened'] + again['tokens']:.3f}", f"{again['ready']:.1f}"]
    cells += [f"{again['own']:.0f}", f"{again['files']:.0f}"]
    print(f"| {' | '.join(cells)} |", flush=True)
    path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 10_000_000])
    parser.add_argument("--kinds", nargs="+", choices=["jsonl", "parquet"], default=["jsonl", "parquet"])
    parser.add_argument("--distinct", action="store_true")
    parser.add_argument("--captions")
    parser.add_argument("--conditions")
    parser.add_argument("--folder", default=tempfile.gettempdir())
    for name, kind in (("--file", str), ("--processors", int), ("--steps", int)):  # of a run, by the program itself
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.file:
        start(args)
        return
    print(
        "| triplets | file | MB | store, 1 processor: texts/s | tokens alone | store, 2 processors: texts/s "
        "| tokens alone | MB more meanwhile | distinct texts | store MB | opened again in s | first step after s "
        "| own MB | files MB |"
    )
    print("|" + "---|" * 14)
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        folder = Path(temporary)
        tower = build_tower(TOWER)
        save_file(tower.state_dict(), folder / "tower.safetensors")
        torch.save({"Phi": Phi(tower.features, tower.width).state_dict()}, folder / "projection.pt")
        del tower
        for kind in args.kinds:
            for size in args.sizes:
                grow(args, folder, size, kind)


if __name__ == "__main__":
    main()

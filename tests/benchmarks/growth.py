"""The cost of starting a run on more and more triplets: time to build the token store, time and memory to reuse it.

    python tests/benchmarks/growth.py [--sizes 10000 100000 1000000 10000000] [--formats jsonl parquet] [--distinct]
        [--captions FILE --conditions FILE] [--folder /tmp]

For each size and format, the program writes a file that repeats the triplets of `speed.py`; with `--distinct`, an index
at the end of each caption makes all captions different. On it a run of ViT-B/32's text tower (random weights) starts as
`rtd-plugin train` starts one, each time in a new process:

* without a store, on one processor and on two: seconds from the file to the finished store, texts a second of that
  and of tokenising alone, and the peak growth of anonymous memory (not mapped from files);
* with that store: seconds to open the triplets, seconds from the start of the process to its first step, and memory
  after three steps, anonymous and mapped from files.
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

START = time.perf_counter()  # before the slow imports

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import torch  # noqa: E402
from common import RATE, SEED, PairedTexts, build_tower  # noqa: E402
from rtd_adapters.phi import Phi  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from rtd_plugin.clip.backbones import Backbone  # noqa: E402
from rtd_plugin.clip.tokens import encode_text  # noqa: E402
from rtd_plugin.engine.build import build_engine  # noqa: E402
from rtd_plugin.training import run as run_module  # noqa: E402
from rtd_plugin.training.loop import make_accelerator  # noqa: E402
from rtd_plugin.training.recipe import Recipe  # noqa: E402
from rtd_plugin.training.trainer import Trainer  # noqa: E402
from rtd_plugin.triplets.sources import JsonTriplets, ParquetSource  # noqa: E402
from rtd_plugin.triplets.triplet import Triplet  # noqa: E402

TOWER = "ViT-B-32"
ROWS = 100_000  # of a row group
KEYS = ("caption", "edit", "output")


def generate_triplets(args: argparse.Namespace, count: int) -> Iterator[Triplet]:
    """Yield the texts' triplets repeatedly, with an index if they are to differ."""
    triplets = PairedTexts(captions=args.captions, conditions=args.conditions).load().triplets
    for index, triplet in enumerate(islice(cycle(triplets), count)):
        reference, condition, target = triplet
        yield Triplet(f"{reference} {index}", condition, f"{target} {index}") if args.distinct else triplet


def write_triplets(path: Path, triplets: Iterator[Triplet]) -> None:
    """Write JSON lines or Parquet, as the file's name says."""
    if path.suffix == ".jsonl":
        with path.open("w", encoding="utf-8") as file:
            for triplet in triplets:
                file.write(json.dumps(dict(zip(KEYS, triplet, strict=True)), ensure_ascii=False) + "\n")
        return
    schema = pa.schema([(name, pa.string()) for name in Triplet._fields])
    with pq.ParquetWriter(path, schema) as writer:
        while rows := list(islice(triplets, ROWS)):
            writer.write_table(pa.table([pa.array(column) for column in zip(*rows, strict=True)], schema=schema))


def read_memory(name: str) -> float:
    """Return resident memory in MB: anonymous (RssAnon) or mapped from files (RssFile)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(lines[name].split()[0]) / 1024


def start_run(args: argparse.Namespace) -> None:
    """Start a run on a file, take steps, and print time and memory as JSON."""
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
    encode_text("loads the tokenizer")
    measurements = {"peak": 0.0}

    def time_function(name, function):
        def call(*arguments):
            start, measurements["before"] = time.perf_counter(), read_memory("RssAnon")
            result = function(*arguments)
            measurements[name] = time.perf_counter() - start
            return result

        return call

    def advance(done: int, total: int) -> None:
        measurements["peak"] = max(measurements["peak"], read_memory("RssAnon"))

    run_module.open_source = time_function("open", run_module.open_source)
    run_module.open_token_store = time_function("tokens", run_module.open_token_store)
    run = run_module.load_run(recipe, folder / "run", advance)
    if args.steps:
        trainer = Trainer(run, make_accelerator(recipe), build_engine)
        measurements["ready"] = time.perf_counter() - START
        for step in range(args.steps):
            trainer.take_step(step, RATE)
    measurements |= {"texts": run.triplets.texts, "anonymous": read_memory("RssAnon"), "mapped": read_memory("RssFile")}
    print(json.dumps(measurements))


def measure_size(args: argparse.Namespace, folder: Path, size: int, file_format: str) -> None:
    """Print the row of a size and a format."""
    path, cache = folder / f"triplets.{file_format}", folder / "cache"
    write_triplets(path, generate_triplets(args, size))
    command = [sys.executable, __file__, "--folder", str(folder), "--file", str(path)]

    def measure(*options: str) -> dict[str, float]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "RTD_PLUGIN_CACHE": str(cache)}
        return json.loads(
            subprocess.run([*command, *options], env=environment, stdout=subprocess.PIPE, check=True).stdout
        )

    cells = [f"{size:,}", file_format, f"{path.stat().st_size / 1e6:,.0f}"]
    for processors in (1, 2):
        shutil.rmtree(cache, ignore_errors=True)
        cold = measure("--processors", str(processors))
        total = cold["open"] + cold["tokens"]
        cells += [f"{total:.1f} s: {3 * size / total:,.0f}", f"{3 * size / cold['tokens']:,.0f}"]
    warm = measure("--steps", "3")
    store = sum(file.stat().st_size for file in (cache / "tokens").rglob("*") if file.is_file())
    cells += [f"{cold['peak'] - cold['before']:,.0f}", f"{cold['texts']:,}", f"{store / 1e6:,.0f}"]
    cells += [f"{warm['open'] + warm['tokens']:.3f}", f"{warm['ready']:.1f}"]
    cells += [f"{warm['anonymous']:.0f}", f"{warm['mapped']:.0f}"]
    print(f"| {' | '.join(cells)} |", flush=True)
    path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 10_000_000])
    parser.add_argument("--formats", nargs="+", choices=["jsonl", "parquet"], default=["jsonl", "parquet"])
    parser.add_argument("--distinct", action="store_true")
    parser.add_argument("--captions")
    parser.add_argument("--conditions")
    parser.add_argument("--folder", default=tempfile.gettempdir())
    for name, value_type in (("--file", str), ("--processors", int), ("--steps", int)):  # for the program's processes
        parser.add_argument(name, type=value_type, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.file:
        start_run(args)
        return
    print(
        "| triplets | file | MB | store, 1 processor: texts/s | tokens alone | store, 2 processors: texts/s "
        "| tokens alone | MB more at the peak | distinct texts | store MB | s to open again | s to first step "
        "| anonymous MB | mapped MB |"
    )
    print("|" + "---|" * 14)
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        folder = Path(temporary)
        tower = build_tower(TOWER)
        save_file(tower.state_dict(), folder / "tower.safetensors")
        torch.save({"Phi": Phi(tower.features, tower.width).state_dict()}, folder / "projection.pt")
        del tower
        for file_format in args.formats:
            for size in args.sizes:
                measure_size(args, folder, size, file_format)


if __name__ == "__main__":
    main()

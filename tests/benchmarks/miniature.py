"""The gain of RTD on the miniature over several seeds, with shuffled conditions as a control.

    python tests/benchmarks/miniature.py [--seeds 3] [--jobs 1] [--output FILE.json]

Prints the tables of docs/miniature.md: recall in percent on the test split, mean and standard deviation over the seeds
of training.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch

from rtd_plugin.cli.console import progress
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.contract import plugins
from rtd_plugin.evaluation.image_features import ImageFeatures
from rtd_plugin.evaluation.retrieval import Retrieval, RetrievalResult
from rtd_plugin.training.loop import make_accelerator, train
from rtd_plugin.training.recipe import read_recipe
from rtd_plugin.training.run import Run, load_run
from rtd_plugin.workflows.train import TrainingProgress

METRICS = ("recall_at_1", "recall_at_5", "recall_at_10", "subset_recall_at_1")
GROUPS = ("all", "seen", "unseen", "independent")
WORDINGS = 6  # of each request, for the spread over them
SPREAD = [f"{name}recall_at_{k}" for name in ("", "spread_of_", "worst_") for k in (1, 10)]
Metrics = dict[str, dict[str, float]]  # in percent, of each group of phrasings
Task, Result = TypeVar("Task"), TypeVar("Result")


def make_run(recipe: str, seed: int, folder: Path, *overrides: str) -> Run:
    """Return a new run of a recipe with a seed and overrides."""
    settings = read_recipe(plugins.find_recipe(recipe), [f"seed={seed}", *overrides])
    return load_run(settings, folder)


def train_tower(run: Run, label: str) -> tuple[TextTower, float]:
    """Return the trained tower and the training time in seconds."""
    start = time.monotonic()
    with progress(label) as advance:
        accelerator = make_accelerator(run.recipe)
        with plugins.use_plugins(TrainingProgress(advance)):
            tower, _ = train(run, accelerator)
    return tower, time.monotonic() - start


def map_in_processes(function: Callable[[Task], Result], tasks: Iterable[Task], jobs: int) -> list[Result]:
    """Return the function of each task, by a number of processes; if there are several, each has one thread."""
    limit_threads = partial(torch.set_num_threads, 1) if jobs > 1 else None
    with ProcessPoolExecutor(jobs, get_context("spawn"), limit_threads) as pool:
        return list(pool.map(function, tasks))


def load_retrieval(run: Run, **options: Any) -> Retrieval:
    """Return the run's evaluation with other options of its benchmark."""
    images = ImageFeatures(run.recipe.backbone.load_image_encoder())
    benchmark = run.recipe.evaluation.model_copy(update=options)
    return Retrieval(benchmark, run.adapter, images, run.projection, run.tower)


def load_retrievals(run: Run) -> dict[str, Retrieval]:
    """Return the run's evaluation with usual and with independent phrasings."""
    return {"usual": load_retrieval(run), "independent": load_retrieval(run, phrasings="independent")}


def compute_metrics(retrievals: Mapping[str, Retrieval], rank: Callable[[Retrieval], RetrievalResult]) -> Metrics:
    """Return the metrics of all queries in their usual phrasings, and of each group of phrasings."""
    usual, independent = (rank(retrievals[name]).compute_metrics() for name in ("usual", "independent"))
    return {"all": usual, "seen": usual["seen"], "unseen": usual["unseen"], "independent": independent}


@cache
def load_once(recipe: str) -> dict[str, Retrieval]:
    """Return the retrievals of a recipe, also with several wordings of each request, loaded once a process."""
    run = make_run(recipe, 0, Path())
    return {**load_retrievals(run), "wordings": load_retrieval(run, wordings=WORDINGS)}


def measure_composed(recipe: str, tower: TextTower) -> Metrics:
    """Return the metrics of composed queries; "wordings" has those over several wordings of each request."""
    retrievals, rank = load_once(recipe), partial(Retrieval.rank_composed, tower=tower)
    return {**compute_metrics(retrievals, rank), "wordings": rank(retrievals["wordings"]).compute_metrics()}


def measure_training(task: tuple[str, int, tuple[str, ...]]) -> dict[str, Any]:
    """Train with a recipe, a seed and overrides; return the metrics, and the time in seconds."""
    recipe, seed, overrides = task
    with tempfile.TemporaryDirectory() as folder:
        tower, seconds = train_tower(make_run(recipe, seed, Path(folder), *overrides), f"seed {seed}")
    return {**measure_composed(recipe, tower), "seconds": seconds}


def write_shuffled_triplets(recipe: str, file: Path) -> None:
    """Write the recipe's triplets as JSON lines; each request has the conditions of another one, drawn at random."""
    (source,) = read_recipe(plugins.find_recipe(recipe)).triplets
    triplets = list(source.load().triplets)
    requests = [triplets[first : first + source.wordings] for first in range(0, len(triplets), source.wordings)]
    others = random.Random(0).sample(requests, len(requests))
    records = (
        {"reference_caption": kept.reference, "conditioning_caption": other.condition, "target_caption": kept.target}
        for kept, other in zip(chain.from_iterable(requests), chain.from_iterable(others), strict=True)
    )
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def format_mean(values: Iterable[float], sign: str = "") -> str:
    """Return mean and standard deviation as text."""
    values = list(values)
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.1f}{deviation}"


def print_tables(rows: Mapping[str, list[Metrics]]) -> None:
    """Print a table for each group of phrasings: mean and standard deviation over the seeds."""
    for group in GROUPS:
        print(f"\n| {group} phrasings | R@1 | R@5 | R@10 | subset R@1 |\n|---|---|---|---|---|")
        for name, seeds in rows.items():
            cells = [format_mean(seed[group][metric] for seed in seeds) for metric in METRICS]
            print(f"| {name} | {' | '.join(cells)} |")


def print_spread(rows: Mapping[str, list[Metrics]]) -> None:
    """Print the metrics over several wordings of each request: the mean over the seeds."""
    print(f"\n| {WORDINGS} wordings | R@1 | R@10 | spread R@1 | spread R@10 | worst R@1 | worst R@10 |")
    print("|---" * 7 + "|")
    for name, seeds in rows.items():
        if "wordings" not in seeds[0]:
            continue
        cells = [f"{statistics.mean(seed['wordings'][metric] for seed in seeds):.1f}" for metric in SPREAD]
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", default="lincir-miniature")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="processes that run at once")
    parser.add_argument("--output", type=Path, help="JSON file for all metrics")
    args = parser.parse_args()

    retrievals = load_once(args.recipe)
    frozen = make_run(args.recipe, 0, Path()).tower
    rows: dict[str, list[dict[str, Any]]] = {
        "image only": [compute_metrics(retrievals, Retrieval.rank_by_image)],
        "text only": [compute_metrics(retrievals, partial(Retrieval.rank_by_condition, tower=frozen))],
        "frozen": [measure_composed(args.recipe, frozen)],
    }
    target_caption = compute_metrics(retrievals, partial(Retrieval.rank_by_target_caption, tower=frozen))
    with tempfile.TemporaryDirectory() as folder:
        control = Path(folder) / "shuffled.jsonl"
        write_shuffled_triplets(args.recipe, control)
        overrides = {"tuned": (), "conditions shuffled": (f"triplets=[{{source: json, path: {control}}}]",)}
        tasks = [(args.recipe, seed, each) for each in overrides.values() for seed in range(args.seeds)]
        results = map_in_processes(measure_training, tasks, args.jobs)
    rows |= {name: results[index * args.seeds :][: args.seeds] for index, name in enumerate(overrides)}
    rows["target caption"] = [target_caption]

    print_tables(rows)
    print_spread(rows)
    print("\ngain of tuning, by seed:")
    for seed, metrics in enumerate(rows["tuned"]):
        gains = {
            group: {metric: round(metrics[group][metric] - rows["frozen"][0][group][metric], 1) for metric in METRICS}
            for group in GROUPS
        }
        print(f"  seed {seed}: {gains}")
    print(f"training took {statistics.median(metrics['seconds'] for metrics in rows['tuned']):.0f} s (median)")
    if args.output:
        args.output.write_text(json.dumps(rows, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()

"""The gain of RTD on the miniature over several seeds, with shuffled conditions as a control.

    python tests/benchmarks/miniature.py [--seeds 3] [--output FILE.json]

Prints the tables of docs/miniature.md: recall in percent on the test split, mean and standard deviation over the seeds
of training.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
GROUPS = ("all", "seen", "unseen")


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


def write_shuffled_triplets(recipe: str, file: Path) -> None:
    """Write the recipe's triplets as JSON lines, with their conditions in random order."""
    (source,) = read_recipe(plugins.find_recipe(recipe)).triplets
    triplets = source.load().triplets
    conditions = [triplet.condition for triplet in triplets]
    random.Random(0).shuffle(conditions)
    records = (
        {"reference_caption": triplet.reference, "conditioning_caption": condition, "target_caption": triplet.target}
        for triplet, condition in zip(triplets, conditions, strict=True)
    )
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def compute_metrics(result: RetrievalResult) -> dict[str, dict[str, float]]:
    """Return the metrics of all queries and of each group of phrasings, in percent."""
    metrics = result.compute_metrics()
    return {group: metrics if group == "all" else metrics[group] for group in GROUPS}


def print_tables(rows: Mapping[str, list[dict[str, Any]]]) -> None:
    """Print a table for each group of phrasings: mean and standard deviation over the seeds."""
    for group in GROUPS:
        print(f"\n| {group} phrasings | R@1 | R@5 | R@10 | subset R@1 |\n|---|---|---|---|---|")
        for name, seeds in rows.items():
            cells = []
            for metric in METRICS:
                values = [seed[group][metric] for seed in seeds]
                spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
                cells.append(f"{statistics.mean(values):.1f}{spread}")
            print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", default="lincir-miniature")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON file for all metrics")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        run = make_run(args.recipe, 0, Path(folder) / "base")
        adapter = plugins.find_adapter(run.recipe.adapter)
        images = ImageFeatures(run.recipe.backbone.load_image_encoder())
        retrieval = Retrieval(run.recipe.evaluation, adapter, images, run.projection, run.tower)
        rows: dict[str, list[dict[str, Any]]] = {
            "image only": [compute_metrics(retrieval.rank_by_image())],
            "text only": [compute_metrics(retrieval.rank_by_condition(run.tower))],
            "frozen": [compute_metrics(retrieval.rank_composed(run.tower))],
            "tuned": [],
            "conditions shuffled": [],
            "target caption": [compute_metrics(retrieval.rank_by_target_caption(run.tower))],
        }
        control = Path(folder) / "shuffled.jsonl"
        write_shuffled_triplets(args.recipe, control)
        shuffled = f"triplets=[{{source: json, path: {control}}}]"
        seconds = []
        for seed in range(args.seeds):
            tower, duration = train_tower(make_run(args.recipe, seed, Path(folder) / f"tuned-{seed}"), f"seed {seed}")
            rows["tuned"].append(compute_metrics(retrieval.rank_composed(tower)))
            seconds.append(duration)
            run = make_run(args.recipe, seed, Path(folder) / f"shuffled-{seed}", shuffled)
            tower, _ = train_tower(run, f"seed {seed}, shuffled")
            rows["conditions shuffled"].append(compute_metrics(retrieval.rank_composed(tower)))

    print_tables(rows)
    print("\ngain of tuning, by seed:")
    for seed, metrics in enumerate(rows["tuned"]):
        gains = {
            group: {metric: round(metrics[group][metric] - rows["frozen"][0][group][metric], 1) for metric in METRICS}
            for group in GROUPS
        }
        print(f"  seed {seed}: {gains}")
    print(f"training took {statistics.median(seconds):.0f} s (median)")
    if args.output:
        args.output.write_text(json.dumps({"rows": rows, "seconds": seconds}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()

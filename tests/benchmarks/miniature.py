"""What RTD gains on the miniature, over seeds, with a control whose conditions are shuffled among the triplets.

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


def run_of(recipe: str, seed: int, folder: Path, *overrides: str) -> Run:
    settings = read_recipe(plugins.find_recipe(recipe), [f"seed={seed}", *overrides])
    return load_run(settings, folder)


def tuned(run: Run, what: str) -> tuple[TextTower, float]:
    """The trained tower, and the seconds that training took."""
    began = time.monotonic()
    with progress(what) as advance:
        accelerator = make_accelerator(run.recipe)
        with plugins.use_plugins(TrainingProgress(advance)):
            tower, _ = train(run, accelerator)
    return tower, time.monotonic() - began


def shuffled_conditions(recipe: str, file: Path) -> None:
    """The recipe's triplets with their conditions in another order, as JSON lines."""
    (source,) = read_recipe(plugins.find_recipe(recipe)).triplets
    triplets = source.load().triplets
    conditions = [triplet.condition for triplet in triplets]
    random.Random(0).shuffle(conditions)
    records = (
        {"reference_caption": triplet.reference, "conditioning_caption": condition, "target_caption": triplet.target}
        for triplet, condition in zip(triplets, conditions, strict=True)
    )
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def figures(found: RetrievalResult) -> dict[str, dict[str, float]]:
    metrics = found.compute_metrics()
    return {group: metrics if group == "all" else metrics[group] for group in GROUPS}


def show(rows: Mapping[str, list[dict[str, Any]]]) -> None:
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
    parser.add_argument("--output", type=Path, help="write every figure here as JSON")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        run = run_of(args.recipe, 0, Path(folder) / "base")
        adapter = plugins.find_adapter(run.recipe.adapter)
        images = ImageFeatures(run.recipe.backbone.load_image_encoder())
        retrieval = Retrieval(run.recipe.evaluation, adapter, images, run.projection)
        rows: dict[str, list[dict[str, Any]]] = {
            "image only": [figures(retrieval.rank_by_image())],
            "text only": [figures(retrieval.rank_by_condition(run.tower))],
            "frozen": [figures(retrieval.rank_composed(run.tower))],
            "tuned": [],
            "conditions shuffled": [],
            "target caption": [figures(retrieval.rank_by_target_caption(run.tower))],
        }
        control = Path(folder) / "shuffled.jsonl"
        shuffled_conditions(args.recipe, control)
        shuffled = f"triplets=[{{source: json, path: {control}}}]"
        seconds = []
        for seed in range(args.seeds):
            tower, taken = tuned(run_of(args.recipe, seed, Path(folder) / f"tuned-{seed}"), f"seed {seed}")
            rows["tuned"].append(figures(retrieval.rank_composed(tower)))
            seconds.append(taken)
            run = run_of(args.recipe, seed, Path(folder) / f"shuffled-{seed}", shuffled)
            tower, _ = tuned(run, f"seed {seed}, shuffled")
            rows["conditions shuffled"].append(figures(retrieval.rank_composed(tower)))

    show(rows)
    print("\ngain of tuning, by seed:")
    for seed, after in enumerate(rows["tuned"]):
        gains = {
            group: {metric: round(after[group][metric] - rows["frozen"][0][group][metric], 1) for metric in METRICS}
            for group in GROUPS
        }
        print(f"  seed {seed}: {gains}")
    print(f"training took {statistics.median(seconds):.0f} s (median)")
    if args.output:
        args.output.write_text(json.dumps({"rows": rows, "seconds": seconds}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()

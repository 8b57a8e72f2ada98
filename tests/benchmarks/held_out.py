"""Whether recall of held-out triplets predicts recall of images, over settings of training on the miniature.

    python tests/benchmarks/held_out.py [--recipe lincir-miniature] [--output FILE.jsonl]

Trains with the published objective and 36 settings: six learning rates, each with six choices of steps, triplets, and
share of conditions that are shuffled. Prints the gain of each over the pre-trained encoder on held-out triplets and on
the images of the development split, then their rank correlation (Spearman). Ten seconds a setting on one idle core.
"""

import argparse
import itertools
import json
import random
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rtd_plugin.contract import plugins
from rtd_plugin.engine.build import build_engine
from rtd_plugin.evaluation.image_features import ImageFeatures
from rtd_plugin.evaluation.retrieval import Retrieval
from rtd_plugin.miniature.benchmark import MiniatureBenchmark
from rtd_plugin.miniature.triplets import MiniatureTriplets
from rtd_plugin.training.held_out import RECALL_AT, HeldOutTriplets
from rtd_plugin.training.loop import make_accelerator, train
from rtd_plugin.training.recipe import read_recipe
from rtd_plugin.training.run import load_run

RATES = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
CHOICES = (  # steps, triplets, share of conditions that are shuffled
    (60, 16000, 0.0),
    (150, 16000, 0.0),
    (100, 1000, 0.0),
    (100, 4000, 0.0),
    (100, 16000, 0.5),
    (100, 16000, 1.0),
)
HELD_OUT = 0.1
METRICS = [f"recall_at_{k}" for k in RECALL_AT]


def write_triplets(file: Path, count: int, shuffled: float) -> None:
    """Write miniature triplets as JSON lines, a share of their conditions in random order."""
    triplets = list(MiniatureTriplets(count=count).load().triplets)
    rng = random.Random(0)
    rows = rng.sample(range(count), round(shuffled * count))
    conditions = [triplet.condition for triplet in triplets]
    for row, source in zip(rows, rng.sample(rows, len(rows)), strict=True):
        conditions[row] = triplets[source].condition
    records = (
        {"reference_caption": triplet.reference, "conditioning_caption": condition, "target_caption": triplet.target}
        for triplet, condition in zip(triplets, conditions, strict=True)
    )
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def describe(row: Mapping[str, Any]) -> str:
    """Return a line on a setting and its gains."""
    gains = (
        ", ".join(f"{row[measured][metric]['difference']:+.1f}" for metric in METRICS)
        for measured in ("held_out", "images", "control")
    )
    return "rate {rate:.0e}, {steps} steps, {triplets} triplets, {shuffled:.0%} shuffled: ".format_map(row) + (
        "R@1, 5, 10 of held-out triplets {}; of images {}; over other triplets' conditions {}".format(*gains)
    )


def print_correlations(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the rank correlations of gains, and how often the verdict on triplets is right about images."""
    for held_out, images in itertools.product(METRICS, METRICS):
        gains = (
            [row[measured][metric]["difference"] for row in rows]
            for measured, metric in (("held_out", held_out), ("images", images))
        )
        correlation = statistics.correlation(*map(rank, gains))
        print(f"{held_out} of held-out triplets and {images} of images: {correlation:.2f}")
    for helps, gains_images in itertools.product((True, False), (True, False)):
        settings = sum(
            helps == all(row[measured]["recall_at_1"]["low"] > 0 for measured in ("held_out", "control"))
            and gains_images == (row["images"]["recall_at_1"]["difference"] > 0)
            for row in rows
        )
        print(f"shown to help: {helps}, recall of images rises: {gains_images}: {settings} settings")


def rank(values: Sequence[float]) -> list[float]:
    """Return the rank of each value, equal ones with the mean of their ranks."""
    return [sum(each < value for each in values) + (list(values).count(value) - 1) / 2 for value in values]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", default="lincir-miniature")
    parser.add_argument("--output", type=Path, help="JSON lines, one a setting")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    retrieval = None
    with tempfile.TemporaryDirectory() as folder:
        for (steps, count, shuffled), rate in itertools.product(CHOICES, RATES):
            file = Path(folder) / f"{count}-{shuffled}.jsonl"
            if not file.exists():
                write_triplets(file, count, shuffled)
            overrides = [
                f"steps={steps}",
                "wording={}",
                f"optimizer.learning_rate={rate}",
                f"triplets=[{{source: json, path: {file}}}]",
                f"validation={{triplets: {HELD_OUT}}}",
                "checkpoints.every=1000",
            ]
            recipe = read_recipe(plugins.find_recipe(args.recipe), overrides)
            run = load_run(recipe, Path(folder) / f"run-{len(rows)}")
            accelerator = make_accelerator(recipe)
            held_out = HeldOutTriplets(run, run.held_out, accelerator.device)
            if retrieval is None:
                images = ImageFeatures(recipe.backbone.load_image_encoder())
                benchmark = MiniatureBenchmark(split="development")
                retrieval = Retrieval(benchmark, run.adapter, images, run.projection, run.tower)
            measured_afterwards = replace(run, recipe=recipe.model_copy(update={"validation": None}))
            tower, _ = train(measured_afterwards, accelerator, build_engine)
            before, after = (
                {"held_out": held_out.measure(each), "images": retrieval.rank_composed(each).per_query}
                for each in (run.tower, tower)
            )
            gains = {measured: after[measured].compute_gain(before[measured]) for measured in after}
            gains["control"] = after["held_out"].compute_gain(held_out.measure(tower, swapped=True))
            rows.append({"rate": rate, "steps": steps, "triplets": count, "shuffled": shuffled, **gains})
            if args.output:
                with args.output.open("a", encoding="utf-8") as log:
                    log.write(json.dumps(rows[-1]) + "\n")
            print(describe(rows[-1]), flush=True)
    print_correlations(rows)


if __name__ == "__main__":
    main()

"""What the search for a learning rate finds on the miniature, and what it costs.

    OMP_NUM_THREADS=1 python tests/benchmarks/rate_search.py [ADAPTER …] [--seeds 2] [--output FILE.jsonl]

Trains each adapter's miniature with the published objective at a constant learning rate: the published one (1e-5), the
one that the search chooses, and each that it may choose, which shows what a whole grid finds. Recall is that of images
of the test split, which the search does not see; processor time includes validation, not evaluation. With `--triplets`
and `--shuffled`, on fewer triplets, or on triplets with all conditions shuffled. Ten seconds a run on one idle core.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from held_out import write_triplets

import rtd_plugin
from rtd_plugin.contract import plugins
from rtd_plugin.evaluation.image_features import ImageFeatures
from rtd_plugin.evaluation.retrieval import Retrieval
from rtd_plugin.miniature.benchmark import MiniatureBenchmark
from rtd_plugin.training.rate_trials import AUTO, HIGHER
from rtd_plugin.training.recipe import read_recipe
from rtd_plugin.training.run import load_run

PUBLISHED = 1e-5
STEPS = 250
GRID = sorted({*AUTO, *HIGHER} - {PUBLISHED}, reverse=True)


class Images:
    """The test split's images as an adapter searches them."""

    def __init__(self, recipe: str, folder: Path):
        run = load_run(read_recipe(plugins.find_recipe(recipe), ["triplets.0.count=1000"]), folder)
        images = ImageFeatures(run.recipe.backbone.load_image_encoder())
        self._retrieval = Retrieval(MiniatureBenchmark(), run.adapter, images, run.projection, run.tower)
        self.frozen = self._measure(run.tower)

    def measure(self, run: Path) -> dict[str, float]:
        """Return R@1 in percent with a run's text encoder: of all queries and of those with unseen phrasings."""
        return self._measure(rtd_plugin.load_text_encoder(run))

    def _measure(self, tower: rtd_plugin.TextTower) -> dict[str, float]:
        metrics = self._retrieval.rank_composed(tower).compute_metrics()
        return {"all": metrics["recall_at_1"], "unseen": metrics["unseen"]["recall_at_1"]}


def train(recipe: str, rate: float | str, seed: int, triplets: Path, folder: Path) -> dict[str, Any]:
    """Train with a learning rate, "auto" for the search; caches are empty at the start."""
    os.environ["RTD_PLUGIN_CACHE"] = str(folder / "cache")
    overrides = [
        f"seed={seed}",
        f"steps={STEPS}",
        "wording={}",
        f"triplets=[{{source: json, path: {triplets}}}]",
        f"optimizer={{learning_rate: {rate}}}",
        "validation={triplets: 0.1, every: 31}",
        "evaluation=null",
    ]
    start = time.process_time()
    result = rtd_plugin.train(recipe, overrides=overrides, output=folder / "run")
    assert result is not None
    assert result.validation is not None
    return {
        "recipe": recipe,
        "seed": seed,
        "asked": rate,
        "rate": result.search["learning_rate"] if result.search else rate,
        "steps": sum_steps(result.search["trials"]) + STEPS if result.search else STEPS,
        "step": result.step,
        "seconds": time.process_time() - start,
        "held_out": {key: result.validation[key] for key in ("before", "after", "helps")},
        "verdict": result.verdict,
    }


def sum_steps(trials: Sequence[Mapping[str, Any]]) -> int:
    """Return the steps that a search adds to a run: of all trials, less those that the run took over."""
    last: dict[float, int] = {}
    for trial in trials:
        last[trial["learning_rate"]] = trial["steps"]
    return sum(last.values()) - max(last.values())


def print_table(recipe: str, frozen: Mapping[str, float], rows: Sequence[Mapping[str, Any]]) -> None:
    """Print means over the seeds: R@1 of images, of held-out triplets, and processor time."""
    print(f"\n{recipe}: frozen R@1 {frozen['all']:.1f}, unseen phrasings {frozen['unseen']:.1f}")
    print("| learning rate | R@1 | unseen phrasings | held-out triplets | steps | processor seconds |")
    print("|---|---|---|---|---|---|")
    for asked in dict.fromkeys(row["asked"] for row in rows):
        same = [row for row in rows if row["asked"] == asked]
        chosen = f" ({', '.join(dict.fromkeys(format(row['rate'], 'g') for row in same))})" if asked == "auto" else ""
        values = (
            [row["images"]["all"] for row in same],
            [row["images"]["unseen"] for row in same],
            [row["held_out"]["after"] for row in same],
        )
        means = " | ".join(f"{statistics.mean(each):.1f}" for each in values)
        steps = statistics.mean(row["steps"] for row in same)
        print(f"| {asked}{chosen} | {means} | {steps:.0f} | {statistics.mean(row['seconds'] for row in same):.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("adapters", nargs="*", default=["lincir", "searle"])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--triplets", type=int, default=16000)
    parser.add_argument("--shuffled", action="store_true", help="shuffle all conditions, and train with auto only")
    parser.add_argument("--output", type=Path, help="JSON lines, one a run")
    args = parser.parse_args()
    for recipe in (f"{adapter}-miniature" for adapter in args.adapters):
        rows: list[dict[str, Any]] = []
        with tempfile.TemporaryDirectory() as folder:
            images, triplets = Images(recipe, Path(folder) / "images"), Path(folder) / "triplets.jsonl"
            write_triplets(triplets, args.triplets, 1.0 if args.shuffled else 0.0)
            rates = ["auto"] if args.shuffled else [PUBLISHED, "auto", *GRID]
            for rate in rates:
                for seed in range(args.seeds):
                    run_folder = Path(folder) / f"{rate}-{seed}"
                    row = train(recipe, rate, seed, triplets, run_folder)
                    row["images"] = images.measure(run_folder / "run")
                    rows.append(row)
                    print(json.dumps(row), flush=True)
                    if args.output:
                        with args.output.open("a", encoding="utf-8") as log:
                            log.write(json.dumps(row) + "\n")
        print_table(recipe, images.frozen, rows)


if __name__ == "__main__":
    main()

"""The gain of RTD on the miniature with triplets made by rules from captions alone.

    python tests/benchmarks/rule_triplets.py [--captions 6000] [--seeds 3] [--output FILE.json]

The captions describe training scenes; `rtd-plugin triplets build rules` makes the triplets, and those that describe a
scene of the benchmark are left out. Prints the tables of docs/triplets.md, as miniature.py does.
"""

import argparse
import json
import random
import re
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from miniature import compute_metrics, load_retrievals, make_run, print_tables, train_tower

from rtd_plugin.evaluation.retrieval import Retrieval
from rtd_plugin.generation.rules.build import build
from rtd_plugin.miniature.language import PLACE_WORDS, SIZE_WORDS, TEXTURE_WORDS, caption
from rtd_plugin.miniature.splits import draw_training_scenes, may_train
from rtd_plugin.miniature.world import BACKGROUNDS, COLOURS, SHAPES, Scene, Thing

RECIPE = "lincir-miniature"


def _invert(words: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """Return the value that each word names."""
    return {word: value for value, names in words.items() for word in names if word}


SIZES, TEXTURES, PLACES = _invert(SIZE_WORDS), _invert(TEXTURE_WORDS), _invert(PLACE_WORDS)
THING = re.compile(
    rf"({'|'.join(SIZES)}) (?:({'|'.join(TEXTURES)}) )?({'|'.join(COLOURS)}) ({'|'.join(SHAPES)}) "
    rf"({'|'.join(sorted(PLACES, key=len, reverse=True))})"
)


def parse_scene(text: str) -> Scene | None:
    """Return the scene that a caption describes; None if the caption leaves something out."""
    things = [
        Thing(SIZES[size], TEXTURES.get(texture, "plain"), colour, shape, PLACES[place])
        for size, texture, colour, shape, place in THING.findall(text)
    ]
    background = re.search(rf"({'|'.join(BACKGROUNDS)})( background)?$", text)
    complete = background and sum(text.count(shape) for shape in SHAPES) == len(things)
    return Scene.of(background[1], things) if complete else None


def write_rule_triplets(captions: int, folder: Path) -> Path:
    """Write triplets made by rules from captions of training scenes, as JSON lines."""
    rng = random.Random("captions for rules")
    training_scenes = draw_training_scenes(rng)
    (folder / "captions.txt").write_text("".join(f"{caption(next(training_scenes), rng)}\n" for _ in range(captions)))
    build(folder / "captions.txt", folder / "all.jsonl")
    lines = []
    for line in (folder / "all.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        scenes = [parse_scene(record[f"{name}_caption"]) for name in ("reference", "target")]
        if all(scene is None or may_train(scene) for scene in scenes):
            lines.append(line + "\n")
    (folder / "triplets.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder / "triplets.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--captions", type=int, default=6000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON file for all metrics")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        triplets = write_rule_triplets(args.captions, folder)
        print(f"{sum(1 for _ in triplets.open()):,} triplets of {args.captions:,} captions")
        run = make_run(RECIPE, 0, folder / "base")
        retrievals, frozen = load_retrievals(run), run.tower
        rows: dict[str, list[dict[str, Any]]] = {
            "frozen": [compute_metrics(retrievals, partial(Retrieval.rank_composed, tower=frozen))],
            "rules": [],
        }
        for seed in range(args.seeds):
            run = make_run(RECIPE, seed, folder / f"run-{seed}", f"triplets=[{{source: json, path: {triplets}}}]")
            tower, _ = train_tower(run, f"seed {seed}")
            rows["rules"].append(compute_metrics(retrievals, partial(Retrieval.rank_composed, tower=tower)))
            print_tables(rows)
    if args.output:
        args.output.write_text(json.dumps(rows, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()

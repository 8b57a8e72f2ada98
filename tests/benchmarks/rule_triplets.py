"""What RTD gains on the miniature when all its triplets are made by rule from captions alone.

    python tests/benchmarks/rule_triplets.py [--captions 6000] [--seeds 3] [--output FILE.json]

The captions describe scenes that training may see; `rtd-plugin triplets build rules` makes the triplets, and those that
happen to describe a scene of the benchmark are left out. Prints the tables of docs/triplets.md, as miniature.py does.
"""

import argparse
import json
import random
import re
import tempfile
from pathlib import Path
from typing import Any

from miniature import figures, run_of, show, tuned

from rtd_plugin.contract import plugins
from rtd_plugin.evaluation.retrieval import Retrieval
from rtd_plugin.generation.rules.build import build
from rtd_plugin.miniature.language import PLACE_WORDS, SIZE_WORDS, TEXTURE_WORDS, caption
from rtd_plugin.miniature.splits import draw_training_scenes, may_train
from rtd_plugin.miniature.world import BACKGROUNDS, COLOURS, SHAPES, Scene, Thing

RECIPE = "lincir-miniature"


def _one_of(words: dict[str, tuple[str, ...]]) -> dict[str, str]:
    return {word: value for value, spelt in words.items() for word in spelt if word}


SIZES, TEXTURES, PLACES = _one_of(SIZE_WORDS), _one_of(TEXTURE_WORDS), _one_of(PLACE_WORDS)
THING = re.compile(
    rf"({'|'.join(SIZES)}) (?:({'|'.join(TEXTURES)}) )?({'|'.join(COLOURS)}) ({'|'.join(SHAPES)}) "
    rf"({'|'.join(sorted(PLACES, key=len, reverse=True))})"
)


def scene(text: str) -> Scene | None:
    """The scene that a caption describes completely."""
    things = [
        Thing(SIZES[size], TEXTURES.get(texture, "plain"), colour, shape, PLACES[place])
        for size, texture, colour, shape, place in THING.findall(text)
    ]
    background = re.search(rf"({'|'.join(BACKGROUNDS)})( background)?$", text)
    complete = background and sum(text.count(shape) for shape in SHAPES) == len(things)
    return Scene.of(background[1], things) if complete else None


def rule_triplets(captions: int, folder: Path) -> Path:
    """Triplets by rule from captions of training scenes, as JSON lines."""
    rng = random.Random("captions for rules")
    scenes = draw_training_scenes(rng)
    (folder / "captions.txt").write_text("".join(f"{caption(next(scenes), rng)}\n" for _ in range(captions)))
    build(folder / "captions.txt", folder / "made.jsonl")
    kept = []
    for line in (folder / "made.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        described = (scene(record[f"{name}_caption"]) for name in ("reference", "target"))
        if all(one is None or may_train(one) for one in described):
            kept.append(line + "\n")
    (folder / "triplets.jsonl").write_text("".join(kept), encoding="utf-8")
    return folder / "triplets.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--captions", type=int, default=6000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="write every figure here as JSON")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        triplets = rule_triplets(args.captions, folder)
        print(f"{sum(1 for _ in triplets.open()):,} triplets of {args.captions:,} captions")
        run = run_of(RECIPE, 0, folder / "base")
        adapter = plugins.find_adapter(run.recipe.adapter)
        retrieval = Retrieval(run.recipe.evaluation, adapter, run.recipe.backbone.load_image_encoder(), run.projection)
        rows: dict[str, list[dict[str, Any]]] = {"frozen": [figures(retrieval.rank_composed(run.tower))], "rules": []}
        for seed in range(args.seeds):
            run = run_of(RECIPE, seed, folder / f"run-{seed}", f"triplets=[{{source: json, path: {triplets}}}]")
            tower, _ = tuned(run, f"seed {seed}")
            rows["rules"].append(figures(retrieval.rank_composed(tower)))
            show(rows)
    if args.output:
        args.output.write_text(json.dumps(rows, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()

"""The gain of RTD on the miniature with triplets made by rules from captions alone.

    python tests/benchmarks/rule_triplets.py [--captions 6000] [--seeds 3] [--jobs 1] [--output FILE.json]

The captions describe training scenes; `rtd-plugin triplets build rules` makes the triplets, with one wording of each
request or with several, and those that describe a scene of the benchmark are left out. Prints the tables of
docs/triplets.md, as miniature.py does.
"""

import argparse
import json
import random
import re
import tempfile
from pathlib import Path
from typing import Any

from miniature import make_run, map_in_processes, measure_composed, measure_training, print_spread, print_tables

from rtd_plugin.generation.rules.build import build
from rtd_plugin.miniature.language import PLACE_WORDS, SIZE_WORDS, TEXTURE_WORDS, caption
from rtd_plugin.miniature.splits import draw_training_scenes, may_train
from rtd_plugin.miniature.world import BACKGROUNDS, COLOURS, SHAPES, Scene, Thing
from rtd_plugin.triplets.parallel import count_processors

RECIPE = "lincir-miniature"
SETTINGS = {  # the wordings of each request, and what training does with them
    "one wording": (1, "wording={}"),
    "one wording, noise 0.2": (1, "wording={noise: 0.2}"),
    "four wordings, consistency 1": (4, "wording={sample: true, consistency: 1}"),
    "four wordings, noise 0.2, consistency 1": (4, "wording={noise: 0.2, sample: true, consistency: 1}"),
}


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


def write_rule_triplets(captions: int, wordings: int, folder: Path) -> Path:
    """Write triplets made by rules from captions of training scenes, as JSON lines."""
    rng = random.Random("captions for rules")
    training_scenes = draw_training_scenes(rng)
    (folder / "captions.txt").write_text("".join(f"{caption(next(training_scenes), rng)}\n" for _ in range(captions)))
    build(folder / "captions.txt", folder / "all.jsonl", wordings=wordings, workers=count_processors())
    lines = []
    for line in (folder / "all.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        scenes = [parse_scene(record[f"{name}_caption"]) for name in ("reference", "target")]
        if all(scene is None or may_train(scene) for scene in scenes):
            lines.append(line + "\n")
    path = folder / f"triplets-{wordings}.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    print(f"{len(lines):,} triplets of {captions:,} captions, up to {wordings} wordings of a request")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--captions", type=int, default=6000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="processes that run at once")
    parser.add_argument("--output", type=Path, help="JSON file for all metrics")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = {count: write_rule_triplets(args.captions, count, folder) for count in (1, 4)}
        tasks = [
            (RECIPE, seed, (f"triplets=[{{source: json, path: {files[count]}}}]", wording))
            for count, wording in SETTINGS.values()
            for seed in range(args.seeds)
        ]
        results = map_in_processes(measure_training, tasks, args.jobs)
    rows: dict[str, list[dict[str, Any]]] = {"frozen": [measure_composed(RECIPE, make_run(RECIPE, 0, Path()).tower)]}
    rows |= {name: results[index * args.seeds :][: args.seeds] for index, name in enumerate(SETTINGS)}
    print_tables(rows)
    print_spread(rows)
    if args.output:
        args.output.write_text(json.dumps(rows, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()

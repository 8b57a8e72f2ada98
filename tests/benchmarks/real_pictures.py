"""Whether the recipe's `wording` helps on pictures that others drew: emoji of four collections.

    npm pack emoji-datasource-google emoji-datasource-facebook emoji-datasource-apple emoji-datasource-twitter
    for name in google facebook apple twitter; do
        mkdir -p emoji/$name && tar xzf emoji-datasource-$name-*.tgz -C emoji/$name
    done
    OMP_NUM_THREADS=1 python tests/benchmarks/real_pictures.py emoji WORK [--seeds 3] [--output FILE.json]

(Each package has 60 to 110 MB; of an unpacked one, `package/emoji.json` and `package/img/NAME/64` are read.)

Trains a small CLIP on pictures of three collections and a projection of LinCIR on captions, then LinCIR's text encoder
with several settings of `wording`. Measures recall in wordings that triplets have and in others, on a collection that
CLIP was trained on and on one that it was not. WORK keeps all that was made, so a stopped program continues. About half
an hour on one idle core of 70 GFLOP/s.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import chain, islice, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from emoji_pictures import (
    BACKDROPS,
    FUNCTION_WORDS,
    SIZES,
    Edits,
    Emoji,
    Picture,
    Renderer,
    list_pictures,
    read_emoji,
    select_trainable,
    write_caption,
    write_conditions,
    write_web_caption,
)
from miniature import format_mean, map_in_processes, train_tower
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from rich.console import Console
from rich.table import Table
from rtd_recipes.miniature.make_clip import normalise, pretrain
from rtd_recipes.miniature.make_lincir import mask_keywords, train_on
from safetensors.torch import save_file
from torch import Tensor

from rtd_plugin.clip.backbones import Backbone
from rtd_plugin.evaluation.benchmarks.folder import Folder
from rtd_plugin.evaluation.image_features import ImageFeatures
from rtd_plugin.evaluation.retrieval import Retrieval, RetrievalResult
from rtd_plugin.generation.rules.build import build
from rtd_plugin.training.recipe import read_recipe
from rtd_plugin.training.run import Run, load_run

TRAINED = ("google", "facebook", "apple")  # collections whose pictures CLIP is trained on
MEASURED = {"seen": "google", "unseen": "twitter"}  # collections with a benchmark
CLIP_STEPS, CLIP_BATCH = 320, 128
STRAY_WORDS = 10_000
PHI_CAPTIONS, PHI_STEPS, PHI_BATCH = 6_000, 150, 96
REQUESTS, RULE_CAPTIONS, WORDINGS = 3000, 2000, 3  # of training
QUERIES = {"development": 400, "test": 1000}  # requests, each in WORDINGS of both groups
HARD_NEGATIVES = 4  # of a request: pictures that differ from the target in one attribute
RATES = (1e-4, 1e-3)
STEPS = 64
GROUPS = ("seen", "unseen")  # of wordings
METRICS = {"recall_at_1": "R@1", "recall_at_5": "R@5", "recall_at_10": "R@10", "spread_of_recall_at_10": "spread R@10"}
Metrics = dict[str, Any]  # of each collection, in percent
MODEL = "rtd-emoji"
MODEL_CONFIG = {
    "embed_dim": 128,
    "vision_cfg": {
        "timm_model_name": "test_resnet",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": 48,
    },
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 3},
}
EMBEDDING = "token_embedding.weight"
PUBLISHED = "published objective"
AVERAGE = "published objective, averaged with the frozen encoder"
RECIPE = {
    "adapter": "lincir",
    "batch_size": 64,
    "precision": "fp32",
    "steps": STEPS,
    "checkpoints": {"every": STEPS},
    "optimizer": {"schedule": "cosine"},
}


def list_settings(work: Path) -> dict[str, list[str]]:
    """Return overrides of the recipe for each setting."""
    noise, sample, consistency = "wording.noise=0.2", "wording.sample=true", "wording.consistency=1"
    mixed = ", ".join(f"{{source: json, path: {work / name}.jsonl, weight: 1}}" for name in ("edits", "rules"))
    return {
        PUBLISHED: [],
        "noise 0.2": [noise],
        "sample": [sample],
        "sample, consistency 1": [sample, consistency],
        "noise 0.2, sample, consistency 1": [noise, sample, consistency],
        "noise 0.2, other words mean nothing to CLIP": [
            noise,
            f"backbone.checkpoint={work / 'captions-only.safetensors'}",
        ],
        "half the steps": [f"steps={STEPS // 2}"],
        "edits and rules": [f"triplets=[{mixed}]"],
    }


class Preparation:
    """Makes what all trainings share.

    Args:
        emoji: the folder of the unpacked packages.
        work: the folder for CLIP, projection, triplets and benchmarks.
    """

    def __init__(self, emoji: Path, work: Path):
        self._packages, self.work = emoji, work
        self.emoji = read_emoji(emoji, list(dict.fromkeys((*TRAINED, *MEASURED.values()))))
        pictures = list_pictures(self.emoji)
        self.training = Edits(picture for picture in pictures if not picture.is_held_out)
        self.held_out = Edits(picture for picture in pictures if picture.is_held_out)

    def make_missing(self) -> None:
        """Make whatever is not in the folder yet."""
        self.work.mkdir(parents=True, exist_ok=True)
        makers = {
            "clip.safetensors": self._make_clip,
            "lincir.safetensors": self._make_projection,
            "edits.jsonl": self._write_edits,
            "rules.jsonl": self._write_rules,
            **{f"{name}/queries-test.jsonl": self.write_benchmark for name in MEASURED},
        }
        (self.work / f"{MODEL}.json").write_text(json.dumps(MODEL_CONFIG, indent=4))
        for name, make in makers.items():
            if not (self.work / name).exists():
                make(self.work / name)

    def _make_clip(self, file: Path) -> None:
        """Train CLIP. Words that no caption has mean nothing to it; in its main file each means what another one does.

        As a CLIP of the size that people use knows all words, a random one of them usually names something.
        """
        renderers = [Renderer(self._packages, name, self.emoji) for name in TRAINED]
        batches = draw_batches(renderers, self.emoji, CLIP_BATCH, seed=0)
        state = pretrain(self.work / f"{MODEL}.json", batches, CLIP_STEPS, seed=0)
        half = {key: value.half().contiguous() if value.is_floating_point() else value for key, value in state.items()}
        save_file(half, file.with_name("captions-only.safetensors"))
        save_file(half | {EMBEDDING: give_meaning(half[EMBEDDING], self.emoji)}, file)

    def _make_projection(self, file: Path) -> None:
        """Train LinCIR's projection on captions."""
        rng = random.Random("real pictures lincir")
        words = list_frequent_words(STRAY_WORDS)
        pictures = [draw_training_picture(self.emoji, rng) for _ in range(PHI_CAPTIONS)]
        captions = [write_web_caption(picture, rng, words) for picture in pictures]
        masked = [mask_keywords(caption, lambda word: word not in FUNCTION_WORDS) for caption in captions]
        clip = Backbone(str(self.work / f"{MODEL}.json"), checkpoint=self.work / "clip.safetensors")
        phi = train_on(captions, masked, clip, PHI_STEPS, PHI_BATCH, seed=0)
        save_file({key: value.half() for key, value in phi.state_dict().items()}, file)

    def _write_edits(self, file: Path) -> None:
        """Write triplets of edits, each request in several "seen" wordings."""
        rng = random.Random("real pictures triplets")
        records = [
            {"reference_caption": captions[0], "conditioning_caption": condition, "target_caption": captions[1]}
            for edit in islice(self.training.draw(rng), REQUESTS)
            for captions in [(write_caption(edit.reference, rng), write_caption(edit.target, rng))]
            for condition in write_conditions(edit, "seen", WORDINGS, rng)
        ]
        write_lines(file, records)

    def _write_rules(self, file: Path) -> None:
        """Write triplets by rules, without those that describe a picture of a benchmark or have an "unseen" word."""
        rng = random.Random("real pictures rules")
        captions, drafts = file.with_name("captions.txt"), file.with_name("all-rules.jsonl")
        texts = [write_caption(draw_training_picture(self.emoji, rng), rng) for _ in range(RULE_CAPTIONS)]
        captions.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        build(captions, drafts)
        records = map(json.loads, drafts.read_text(encoding="utf-8").splitlines())
        write_lines(file, select_trainable(records, list_pictures(self.emoji)))

    def write_benchmark(self, file: Path) -> None:
        """Write a gallery of held-out pictures of a collection, and the queries of both splits."""
        rng = random.Random(f"real pictures {file.parent.name}")
        renderer = Renderer(self._packages, MEASURED[file.parent.name], self.emoji)
        file.parent.mkdir(exist_ok=True)
        edits = self.held_out.draw(random.Random("real pictures queries"))  # the same requests in each collection
        requests = {split: list(islice(edits, count)) for split, count in QUERIES.items()}
        names: dict[Picture, str] = {}
        for edit in chain.from_iterable(requests.values()):
            similar = [each.target for kind in self.held_out.list_from(edit.target).values() for each in kind]
            for picture in (edit.reference, edit.target, *rng.sample(similar, min(len(similar), HARD_NEGATIVES))):
                names.setdefault(picture, f"{len(names):05d}.png")
        for picture, name in names.items():
            Image.fromarray(renderer.render(picture, rng)).save(file.with_name(name))
        for split in QUERIES:
            queries = [
                {
                    "reference": names[edit.reference],
                    "condition": condition,
                    "target": names[edit.target],
                    "request": f"{index}",
                    "group": [group, f"{group} {edit.kind}"],
                }
                for index, edit in enumerate(requests[split])
                for group in GROUPS
                for condition in write_conditions(edit, group, WORDINGS, rng)
            ]
            write_lines(file.with_name(f"queries-{split}.jsonl"), queries)


def draw_training_picture(emoji: Sequence[Emoji], rng: random.Random) -> Picture:
    """Return a random picture that is not held out."""
    while True:
        picture = Picture(rng.choice(emoji), rng.choice(list(SIZES)), rng.choice(list(BACKDROPS)))
        if not picture.is_held_out:
            return picture


def list_frequent_words(count: int) -> list[str]:
    """Return the first whole words of CLIP's vocabulary, which begins with frequent ones."""
    words = (text.removesuffix("</w>") for text in SimpleTokenizer().encoder if text.endswith("</w>"))
    return list(islice((word for word in words if word.isascii() and word.isalpha() and len(word) > 1), count))


def draw_batches(
    renderers: Sequence[Renderer], emoji: Sequence[Emoji], batch_size: int, seed: int
) -> Iterator[tuple[Tensor, list[str]]]:
    """Yield batches of training pictures and captions, as `pretrain` takes them."""
    rng = random.Random(f"real pictures clip {seed}")
    words = list_frequent_words(STRAY_WORDS)
    while True:
        pictures = [draw_training_picture(emoji, rng) for _ in range(batch_size)]
        pixels = np.stack([rng.choice(renderers).render(picture, rng) for picture in pictures])
        yield normalise(pixels), [write_web_caption(picture, rng, words) for picture in pictures]


def give_meaning(embedding: Tensor, emoji: Iterable[Emoji]) -> Tensor:
    """Return token embeddings (V, W) in which each token without meaning, a row of zeros, is one of a name's tokens."""
    generator = torch.Generator().manual_seed(0)
    names = torch.tensor(sorted(set(SimpleTokenizer().encode(" ".join(each.name for each in emoji)))))
    unknown = (embedding == 0).all(dim=1)
    chosen = torch.randint(len(names), (int(unknown.sum()),), generator=generator)
    meaningful = embedding.clone()
    meaningful[unknown] = embedding[names[chosen]]
    return meaningful


def write_lines(file: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write records as JSON lines."""
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def load_work_run(work: Path, folder: Path, overrides: Sequence[str] = ()) -> Run:
    """Return a run of the recipe on what is in `work`."""
    paths = {
        "backbone": {"model": str(work / f"{MODEL}.json"), "checkpoint": str(work / "clip.safetensors")},
        "projection": str(work / "lincir.safetensors"),
        "triplets": [{"source": "json", "path": str(work / "edits.jsonl")}],
    }
    return load_run(read_recipe(RECIPE | paths, overrides), folder)


@cache
def load_retrieval(work: Path, collection: str, split: str) -> Retrieval:
    """Return the benchmark of a collection, once a process."""
    run = load_work_run(work, Path())
    benchmark = Folder(data=work / collection, queries_file=work / collection / f"queries-{split}.jsonl")
    images = ImageFeatures(run.recipe.backbone.load_image_encoder())
    return Retrieval(benchmark, run.adapter, images, run.projection, run.tower)


def measure(work: Path, rank: Callable[[Retrieval], RetrievalResult], split: str = "test") -> Metrics:
    """Return the metrics of each collection, by group of wordings and kind of edit."""
    return {name: rank(load_retrieval(work, name, split)).compute_metrics() for name in MEASURED}


def measure_training(task: tuple[Path, str, Sequence[str], str]) -> None:
    """Train with overrides of the recipe, and keep the metrics as `WORK/results/NAME.json`, unless they are there."""
    work, name, overrides, split = task
    file = work / "results" / f"{name}.json"
    if file.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        run = load_work_run(work, Path(folder), overrides)
        tower, _ = train_tower(run, name)
    rank = partial(Retrieval.rank_composed, tower=tower)
    metrics = {"tuned": measure(work, rank, split)}
    if name.startswith(PUBLISHED):
        for average, weight in zip(tower.parameters(), run.tower.parameters(), strict=True):
            average.data.lerp_(weight, 0.5)
        metrics["averaged"] = measure(work, rank, split)
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(metrics), encoding="utf-8")


def read_metrics(work: Path, name: str, encoder: str = "tuned") -> Metrics:
    """Return what `measure_training` kept, of the tuned encoder or of its average with the frozen one."""
    return json.loads((work / "results" / f"{name}.json").read_text(encoding="utf-8"))[encoder]


def measure_baselines(work: Path) -> dict[str, list[Metrics]]:
    """Return the metrics of queries by image alone, by text alone, and by the frozen encoder."""
    frozen = load_work_run(work, Path()).tower
    return {
        "image only": [measure(work, Retrieval.rank_by_image)],
        "text only": [measure(work, partial(Retrieval.rank_by_condition, tower=frozen))],
        "frozen": [measure(work, partial(Retrieval.rank_composed, tower=frozen))],
    }


def show(rows: Mapping[str, Sequence[Metrics]]) -> None:
    """Print a table for each collection: mean and standard deviation over the seeds."""
    for collection, drawn_by in MEASURED.items():
        table = Table("", title=f"{collection} collection ({drawn_by}), wordings seen and unseen")
        for group, metric in product(GROUPS, METRICS.values()):
            table.add_column(f"{group}: {metric}", justify="right")
        for name, seeds in rows.items():
            values = ([seed[collection][group][key] for seed in seeds] for group, key in product(GROUPS, METRICS))
            table.add_row(name, *map(format_mean, values))
        Console(width=180).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("emoji", type=Path, help="folder with the unpacked packages")
    parser.add_argument("work", type=Path, help="folder for all that is made, and read again by a later run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
    parser.add_argument("--output", type=Path, help="JSON file for all metrics")
    args = parser.parse_args()

    work = args.work.resolve()
    Preparation(args.emoji, work).make_missing()
    rates = {rate: f"rate {rate:g}" for rate in RATES}
    trials = [(work, name, [f"optimizer.learning_rate={rate}"], "development") for rate, name in rates.items()]
    map_in_processes(measure_training, trials, args.jobs)
    recalls = {
        rate: sum(read_metrics(work, name)[collection]["recall_at_1"] for collection in MEASURED)
        for rate, name in rates.items()
    }
    rate = max(RATES, key=recalls.__getitem__)
    print(f"learning rate {rate:g}; summed R@1 of the development queries by rate: {recalls}")
    settings = list_settings(work)
    tasks = [
        (work, f"{name} {seed}", [f"optimizer.learning_rate={rate}", f"seed={seed}", *overrides], "test")
        for seed in range(args.seeds)
        for name, overrides in settings.items()
    ]
    map_in_processes(measure_training, tasks, args.jobs)
    rows = measure_baselines(work)
    for name in settings:
        rows[name] = [read_metrics(work, f"{name} {seed}") for seed in range(args.seeds)]
    rows[AVERAGE] = [read_metrics(work, f"{PUBLISHED} {seed}", "averaged") for seed in range(args.seeds)]
    show(rows)
    if args.output:
        args.output.write_text(json.dumps({"rate": rate, "rows": rows}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Where the miniature's composed queries fail, by kind of edit: in the images, the pseudo tokens, or the text encoder.

    python tests/benchmarks/edit_kinds.py [--split development] [--set KEY=VALUE ...] [--probe-triplets 20000]

Prints recall@1 in percent for each kind of edit. The rows differ from `tuned` in one thing each:

* `frozen`: the text encoder before tuning.
* `tuned, pseudo token of a caption`: φ of a reference caption's feature, as in training, instead of the image's.
* `tuned, among captions`: the gallery holds features of captions, so that the image tower has no part in it.
* `target caption`: the target's own caption as the query, the upper bound of a composed query.
* `probe`: a perceptron instead of the text encoder. From the pseudo token and the edit, given as its attributes and not
  in words, it predicts the target caption's feature. What it finds, the pseudo token and the image tower allow.
"""

import argparse
import random
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch
from miniature import make_run, train_tower
from torch import Tensor, nn
from torch.nn import functional as F

from rtd_plugin.clip.tokens import encode_text
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.contract import plugins
from rtd_plugin.evaluation.encoding import encode_texts, project
from rtd_plugin.evaluation.image_features import ImageFeatures
from rtd_plugin.evaluation.ranking import open_gallery
from rtd_plugin.evaluation.retrieval import Retrieval, RetrievalResult
from rtd_plugin.miniature.language import caption
from rtd_plugin.miniature.splits import Task, draw_training_scenes, may_train, split
from rtd_plugin.miniature.world import ATTRIBUTES, BACKGROUNDS, KINDS, Edit, Scene, random_edit

BATCH, HIDDEN, EPOCHS = 256, 1024, 15  # of the probe
RATE, TEMPERATURE, NOISE = 1e-3, 0.03, 0.1


def describe_edit(edit: Edit) -> Tensor:
    """Return an edit as a vector of zeros and ones: its kind, attributes before and after, the new background."""
    things = [
        value == getattr(thing, key, None)
        for thing in (edit.before, edit.after)
        for key, values in ATTRIBUTES.items()
        for value in values
    ]
    return torch.tensor(
        [kind == edit.kind for kind in KINDS] + things + [name == edit.background for name in BACKGROUNDS]
    ).float()


class Captions:
    """Encodes captions with the frozen text encoder."""

    def __init__(self, tower: TextTower):
        self.tower, self.rng = tower, random.Random(0)

    def encode(self, scenes: Sequence[Scene]) -> Tensor:
        """Return features (N, D) of a caption for each scene, not normalised."""
        return encode_texts(self.tower, [encode_text(caption(scene, self.rng)) for scene in scenes])


def train_probe(captions: Captions, projection: nn.Module, count: int) -> nn.Module:
    """Return a perceptron from (pseudo token, edit) to the target caption's feature, trained on `count` triplets."""
    torch.manual_seed(0)
    rng = random.Random(0)

    def draw() -> tuple[Scene, Edit, Scene]:
        while True:
            scene = next(scenes)
            edit = random_edit(scene, rng)
            if may_train(target := edit.apply(scene)):
                return scene, edit, target

    scenes = draw_training_scenes(rng)
    references, edits, after = zip(*islice(iter(draw, None), count), strict=True)
    tokens = project(projection, captions.encode(references), captions.tower.device)
    changes, targets = torch.stack([describe_edit(edit) for edit in edits]), F.normalize(captions.encode(after), dim=-1)
    width = tokens.shape[1]
    probe = nn.Sequential(
        nn.BatchNorm1d(width + changes.shape[1], affine=False),
        nn.Linear(width + changes.shape[1], HIDDEN),
        nn.GELU(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.GELU(),
        nn.Linear(HIDDEN, targets.shape[1]),
    )
    optimizer = torch.optim.AdamW(probe.parameters(), RATE, weight_decay=0.01)
    steps = EPOCHS * count // BATCH
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    scale = NOISE * tokens.std(dim=0)
    for _ in range(steps):
        rows = torch.randint(count, (BATCH,))
        noisy = tokens[rows] + scale * torch.randn(BATCH, width)
        queries = F.normalize(probe(torch.cat([noisy, changes[rows]], dim=1)), dim=-1)
        loss = F.cross_entropy(queries @ targets[rows].T / TEMPERATURE, torch.arange(BATCH))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return probe.eval()


def print_row(name: str, result: RetrievalResult | None, tasks: Sequence[Task]) -> None:
    """Print the recall@1 of each kind of edit and of all, in percent."""
    assert result is not None
    found = [rank == 1 for rank in result.target_ranks.tolist()]
    by_kind = [[hit for hit, task in zip(found, tasks, strict=True) if task.edit.kind == kind] for kind in KINDS]
    cells = [f"{100 * sum(hits) / len(hits):.1f}" for hits in (*by_kind, found)]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", default="lincir-miniature")
    parser.add_argument("--split", choices=["development", "test"], default="development")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="of the recipe, KEY=VALUE")
    parser.add_argument("--probe-triplets", type=int, default=20_000)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        run = make_run(args.recipe, 0, Path(folder) / "run", f"evaluation.split={args.split}", *args.overrides)
        adapter = plugins.find_adapter(run.recipe.adapter)
        images = ImageFeatures(run.recipe.backbone.load_image_encoder())
        retrieval = Retrieval(run.recipe.evaluation, adapter, images, run.projection, run.tower)
        tuned, _ = train_tower(run, "training")
    tasks, captions = split(args.split).tasks, Captions(run.tower)
    print(f"| R@1, {args.split} split | {' | '.join((*KINDS, 'all'))} |\n|{'---|' * (len(KINDS) + 2)}")
    print_row("frozen", retrieval.rank_composed(run.tower), tasks)
    print_row("tuned", retrieval.rank_composed(tuned), tasks)
    image_tokens, image_gallery = retrieval.pseudo_tokens, retrieval.gallery
    references = captions.encode([task.reference for task in tasks])
    retrieval.pseudo_tokens = project(run.projection, references, retrieval.device)
    print_row("tuned, pseudo token of a caption", retrieval.rank_composed(tuned), tasks)
    retrieval.pseudo_tokens = image_tokens
    gallery = captions.encode([Scene.parse(name) for name in retrieval.names])
    retrieval.gallery = open_gallery(gallery, len(gallery), retrieval.device)
    print_row("tuned, among captions", retrieval.rank_composed(tuned), tasks)
    retrieval.gallery = image_gallery
    print_row("target caption", retrieval.rank_by_target_caption(run.tower), tasks)
    probe = train_probe(captions, run.projection, args.probe_triplets)
    with torch.no_grad():
        changes = torch.stack([describe_edit(task.edit) for task in tasks])
        print_row("probe", retrieval.rank(probe(torch.cat([image_tokens, changes], dim=1))), tasks)


if __name__ == "__main__":
    main()

"""Shared code of the training benchmarks: full-size towers with random weights, and runs on real texts.

Captions are the last column of a tab-separated file, conditions the field `caption` of a JSON list (as CIRR's are);
without them the miniature's triplets are used. Weights are random: speed does not depend on them.
"""

import argparse
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from rtd_adapters.lincir import LinCIR
from rtd_adapters.phi import Phi

from rtd_plugin.clip.backbones import Backbone
from rtd_plugin.clip.fingerprint import probe
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.miniature.triplets import MiniatureTriplets
from rtd_plugin.training.recipe import Recipe
from rtd_plugin.training.run import Run
from rtd_plugin.triplets.token_store import open_token_store
from rtd_plugin.triplets.triplet import Triplet, TripletSet, TripletSource

RATE = 1e-5
SEED = 12345


@dataclass(frozen=True)
class Size:
    """Sizes of a text tower; its features are as wide as its residual stream."""

    width: int
    layers: int


TOWERS = {
    "tiny": Size(64, 2),
    "miniature": Size(128, 3),
    "ViT-B-32": Size(512, 12),
    "ViT-L-14": Size(768, 12),
    "ViT-H-14": Size(1024, 24),
}


class PairedTexts(TripletSource):
    """Captions and conditions, paired at random."""

    name: ClassVar[str] = "paired"

    captions: str | None = None
    conditions: str | None = None

    def load(self) -> TripletSet:
        if self.captions is None or self.conditions is None:
            return MiniatureTriplets(count=20000).load()
        lines = Path(self.captions).read_text(encoding="utf-8").splitlines()
        captions = [line.split("\t")[-1] for line in lines if line.strip()]
        random.Random(0).shuffle(captions)
        conditions = [record["caption"] for record in json.loads(Path(self.conditions).read_text(encoding="utf-8"))]
        random.Random(0).shuffle(conditions)
        pairs = zip(captions[::2], captions[1::2], strict=False)
        triplets = [
            Triplet(reference, conditions[index % len(conditions)], target)
            for index, (reference, target) in enumerate(pairs)
        ]
        return TripletSet(triplets, f"{self.captions} {self.conditions}")


def add_text_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--captions", help="a tab-separated file; captions in its last column")
    parser.add_argument("--conditions", help="a JSON list with the field `caption`")


def build_tower(name: str) -> TextTower:
    torch.manual_seed(0)
    size = TOWERS[name]
    return TextTower(width=size.width, features=size.width, layers=size.layers, heads=max(1, size.width // 64))


def build_projection(tower: TextTower) -> Phi:
    torch.manual_seed(1)
    return Phi(tower.features, tower.width).eval().requires_grad_(False)


def make_run(
    tower: TextTower, projection: Phi, source: TripletSource, folder: Path, triplets: int, **settings: object
) -> Run:
    """Return a run as `load_run` does, of a random tower.

    Args:
        tower, projection: ψ₀ and φ.
        source: of the triplets.
        folder: of the run.
        triplets: a batch's.
        settings: other keys of the recipe.
    """
    recipe = Recipe(
        adapter="lincir",
        backbone=Backbone(model="ViT-B-32"),
        projection=folder / "projection.pt",
        triplets=[source],
        batch_size=triplets,
        seed=SEED,
        **settings,
    )
    loaded = source.load()
    return Run(
        recipe=recipe,
        folder=folder,
        adapter=LinCIR(),
        tower=tower.eval().requires_grad_(False),
        projection=projection,
        triplets=open_token_store([loaded], LinCIR.prompt),
        skipped=0,
        base_digest=f"{tower.width}",
        base_probe=probe(tower),
        projection_digest="",
        triplet_digests=[loaded.digest],
    )

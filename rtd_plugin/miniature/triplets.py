"""The miniature's text triplets as a source."""

import hashlib
import json
import random
from typing import ClassVar

from pydantic import PositiveInt

from rtd_plugin.miniature.language import caption, condition
from rtd_plugin.miniature.requests import write_grammar_condition
from rtd_plugin.miniature.splits import draw_training_scenes, may_train
from rtd_plugin.miniature.world import random_edit
from rtd_plugin.triplets.triplet import Triplet, TripletSet, TripletSource

GRAMMAR = 0.5  # the share of conditions by the grammar; the others have "seen" phrasings


class MiniatureTriplets(TripletSource):
    """Text triplets about random scenes, none of which is in a benchmark's split.

    Half of the conditions have the miniature's "seen" phrasings, half are written by the grammar in
    `rtd_plugin/phrasing/`.

    Attributes:
        count: number of requests.
        wordings: conditions for each request, each in a triplet with the same captions.
        seed: of the scenes and their wording.
    """

    name: ClassVar[str] = "miniature"

    count: PositiveInt = 16000
    wordings: PositiveInt = 1
    seed: int = 0

    def load(self) -> TripletSet:
        """Generate the triplets, always the same for the same options."""
        rng = random.Random(f"miniature triplets {self.seed}")
        scenes = draw_training_scenes(rng)
        triplets: list[Triplet] = []
        while len(triplets) < self.count * self.wordings:
            scene = next(scenes)
            edit = random_edit(scene, rng)
            if may_train(target := edit.apply(scene)):
                captions = caption(scene, rng), caption(target, rng)
                for _ in range(self.wordings):
                    write = write_grammar_condition if rng.random() < GRAMMAR else condition
                    triplets.append(Triplet(captions[0], write(edit, scene, rng), captions[1]))
        return TripletSet(triplets, hashlib.sha256(json.dumps(triplets).encode()).hexdigest())

"""The miniature's queries and gallery as a benchmark."""

import random
from collections.abc import Sequence
from typing import ClassVar, Literal

from PIL import Image

from rtd_plugin.evaluation.benchmark import Benchmark, Query
from rtd_plugin.miniature.language import caption, condition
from rtd_plugin.miniature.rendering import picture
from rtd_plugin.miniature.splits import Task, split
from rtd_plugin.miniature.world import Scene


class MiniatureBenchmark(Benchmark):
    """A thousand queries on rendered scenes; an image's name is its scene's, so there are no files.

    Attributes:
        split: "test" for reported figures, "development" for all choices before.
    """

    name: ClassVar[str] = "miniature"
    excludes_reference: ClassVar[bool] = True
    subset_recall_at: ClassVar[tuple[int, ...]] = (1,)

    split: Literal["development", "test"] = "test"

    def queries(self) -> Sequence[Query]:
        """Return two queries per reference: one in a phrasing that text triplets use ("seen"), one "unseen"."""
        rng = random.Random(f"miniature queries {self.split}")
        return [_make_query(task, rng) for task in split(self.split).tasks]

    def gallery(self) -> Sequence[str]:
        """Return about 3,700 scenes; no reference is among them."""
        return [str(scene) for scene in split(self.split).gallery]

    def image(self, name: str) -> Image.Image:
        """Return the picture of the scene of that name."""
        return picture(Scene.parse(name))


def _make_query(task: Task, rng: random.Random) -> Query:
    target = task.edit.apply(task.reference)
    siblings = (edit.apply(task.reference) for edit in task.siblings)
    return Query(
        reference=str(task.reference),
        conditions=(condition(task.edit, task.reference, rng, task.group),),
        targets=(str(target),),
        subset=tuple(map(str, (target, *siblings))),
        groups=(task.group,),
        target_caption=caption(target, rng),
    )

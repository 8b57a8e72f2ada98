"""Queries on the miniature's gallery that show what it knows, for pages that let people try it."""

import random

from rtd_plugin.miniature.language import condition
from rtd_plugin.miniature.splits import split
from rtd_plugin.miniature.world import random_edit


def draw_examples(count: int) -> list[tuple[str, str]]:
    """Return names of images of the test gallery, each with a condition for it; always the same."""
    rng = random.Random("miniature examples")
    scenes = rng.sample(split("test").gallery, count)
    return [(str(scene), condition(random_edit(scene, rng), scene, rng)) for scene in scenes]

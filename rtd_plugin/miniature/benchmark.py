"""The miniature's queries and gallery as a benchmark."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from PIL import Image
from pydantic import Field

from rtd_plugin.evaluation.benchmark import Benchmark, Query
from rtd_plugin.miniature.language import caption, condition
from rtd_plugin.miniature.rendering import render
from rtd_plugin.miniature.splits import Task, split
from rtd_plugin.miniature.world import Scene

DRAWS = 50  # of a wording, for each that is wanted


class MiniatureBenchmark(Benchmark):
    """A thousand queries on rendered scenes; an image's name is its scene's, so there are no files.

    Attributes:
        split: "test" for reported figures, "development" for every choice before.
        phrasings: "usual": half of the queries in phrasings that training has seen, half in unseen ones. Or all queries
            in those of one group, to compare groups on the same requests: "seen", "unseen", or "independent", whose
            author had not seen the others.
        wordings: of each request. With several, its siblings (other edits of the reference) are its wrong answers.
    """

    name: ClassVar[str] = "miniature"
    excludes_reference: ClassVar[bool] = True
    subset_recall_at: ClassVar[tuple[int, ...]] = (1,)

    split: Literal["development", "test"] = "test"
    phrasings: Literal["usual", "seen", "unseen", "independent"] = "usual"
    wordings: int = Field(1, ge=1, le=20)

    def queries(self) -> Sequence[Query]:
        """Return two queries per reference: one in a phrasing that text triplets use ("seen"), one "unseen".

        With the phrasings of one group, both are in it.
        """
        tasks, stream = split(self.split).tasks, str(self.split)
        rng = random.Random(f"miniature queries {stream}")
        queries = [_make_query(task, rng) for task in tasks]
        if self.phrasings != "usual":
            stream = f"{self.phrasings} {stream}"
            rng = random.Random(f"miniature queries {stream}")
            tasks = tuple(task._replace(group=self.phrasings) for task in tasks)
            queries = [_reword(query, task, rng) for query, task in zip(queries, tasks, strict=True)]
        if self.wordings == 1:
            return queries
        return [
            replace(query, conditions=(wording,), request=str(index), wrong=query.subset[1:])
            for index, (query, task) in enumerate(zip(queries, tasks, strict=True))
            for wording in _draw_wordings(query, task, self.wordings, random.Random(f"miniature {stream} {index}"))
        ]

    def gallery(self) -> Sequence[str]:
        """Return about 3,700 scenes; no reference is among them."""
        return [str(scene) for scene in split(self.split).gallery]

    def image(self, name: str) -> Image.Image:
        """Return the image of the scene of that name."""
        return render(Scene.parse(name))


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


def _reword(query: Query, task: Task, rng: random.Random) -> Query:
    """Return a query with a condition in the task's phrasings."""
    return replace(query, conditions=(condition(task.edit, task.reference, rng, task.group),), groups=(task.group,))


def _draw_wordings(query: Query, task: Task, count: int, rng: random.Random) -> list[str]:
    """Return different wordings in the task's phrasings, the query's first; fewer if there are not so many."""
    wordings = dict.fromkeys(query.conditions)
    for _ in range(DRAWS * count):
        if len(wordings) == count:
            break
        wordings[condition(task.edit, task.reference, rng, task.group)] = None
    return list(wordings)

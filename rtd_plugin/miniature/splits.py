"""Queries and galleries of the development and test splits, and the scenes that training may see."""

import random
from collections.abc import Iterator, Set
from functools import cache
from typing import NamedTuple

from rtd_plugin.miniature.world import Edit, Scene, random_edit, random_scene

REFERENCES = 500


class Task(NamedTuple):
    """One query without its wording: the requested edit, and its siblings, which are not requested."""

    reference: Scene
    edit: Edit
    siblings: tuple[Edit, ...]  # two
    group: str  # of the phrasing


class Split(NamedTuple):
    """Two tasks for each reference scene, and the scenes to rank, none of which is a reference."""

    tasks: tuple[Task, ...]
    gallery: tuple[Scene, ...]


@cache
def split(name: str) -> Split:
    """Return the split of that name, "development" or "test"; it is always the same.

    The gallery holds the scenes that a task's three edits lead to, and for each target a scene one more edit away. A
    task's three edits come from the same distribution: a ranking that ignores the condition puts the target before its
    siblings one time in three.
    """
    rng = random.Random(f"miniature {name}")
    excluded = _collect_scenes(split("test")) if name == "development" else frozenset()
    references = _draw_references(excluded, rng)
    taken = excluded | references.keys()
    tasks: list[Task] = []
    gallery: dict[Scene, None] = {}
    for reference in references:
        edits = _draw_edits(reference, 6, taken, rng)
        tasks.append(Task(reference, edits[0], edits[1:3], "seen"))
        tasks.append(Task(reference, edits[3], edits[4:6], "unseen"))
        scenes = [edit.apply(reference) for edit in edits]
        scenes += [_draw_edits(scenes[index], 1, taken, rng)[0].apply(scenes[index]) for index in (0, 3)]
        gallery |= dict.fromkeys(scenes)
    return Split(tuple(tasks), tuple(gallery))


@cache
def list_reserved() -> frozenset[Scene]:
    """Return all scenes of the development and test splits."""
    return _collect_scenes(split("development")) | _collect_scenes(split("test"))


def draw_training_scenes(rng: random.Random) -> Iterator[Scene]:
    """Yield random scenes that training may see, without end."""
    while True:
        scene = random_scene(rng)
        if may_train(scene):
            yield scene


def may_train(scene: Scene) -> bool:
    """Return whether a scene is not reserved and has no held-out pair of colour and shape."""
    return not scene.is_held_out and scene not in list_reserved()


def _collect_scenes(of: Split) -> frozenset[Scene]:
    return frozenset(of.gallery) | {task.reference for task in of.tasks}


def _draw_references(excluded: Set[Scene], rng: random.Random) -> dict[Scene, None]:
    scenes: dict[Scene, None] = {}
    while len(scenes) < REFERENCES:
        if (scene := random_scene(rng)) not in excluded:
            scenes[scene] = None
    return scenes


def _draw_edits(scene: Scene, count: int, taken: Set[Scene], rng: random.Random) -> tuple[Edit, ...]:
    """Return edits that lead to `count` different scenes, none of them taken."""
    edits: dict[Scene, Edit] = {}
    while len(edits) < count:
        edit = random_edit(scene, rng)
        if (after := edit.apply(scene)) not in taken:
            edits.setdefault(after, edit)
    return tuple(edits.values())

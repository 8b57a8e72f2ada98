"""What is shown when: queries and galleries of the development and test splits, and scenes that training may see."""

import random
from collections.abc import Iterator, Set
from functools import cache
from typing import NamedTuple

from rtd_plugin.miniature.world import Edit, Scene, random_edit, random_scene

REFERENCES = 500


class Task(NamedTuple):
    """One query before it is put into words: the edit that is asked for, and its siblings, not asked for."""

    reference: Scene
    edit: Edit
    siblings: tuple[Edit, Edit]
    group: str  # of the phrasing


class Split(NamedTuple):
    """Two tasks for each reference scene, and the scenes to be ranked, none of which is a reference."""

    tasks: tuple[Task, ...]
    gallery: tuple[Scene, ...]


@cache
def split(name: str) -> Split:
    """The split of that name, always the same.

    The gallery holds the scenes that a task's three edits lead to and for each target a scene one more edit away. A
    task's edits are drawn alike and any of them could have been asked for: who does not read the condition finds
    the target among its siblings once in three times.
    """
    rng = random.Random(f"miniature {name}")
    elsewhere = _scenes(split("test")) if name == "development" else frozenset()
    references = _references(elsewhere, rng)
    taken = elsewhere | references.keys()
    tasks, gallery = [], {}
    for reference in references:
        edits = _edits(reference, 6, taken, rng)
        tasks.append(Task(reference, edits[0], edits[1:3], "seen"))
        tasks.append(Task(reference, edits[3], edits[4:6], "unseen"))
        scenes = [edit.apply(reference) for edit in edits]
        scenes += [_edits(scenes[asked], 1, taken, rng)[0].apply(scenes[asked]) for asked in (0, 3)]
        gallery |= dict.fromkeys(scenes)
    return Split(tuple(tasks), tuple(gallery))


@cache
def reserved() -> frozenset[Scene]:
    """All scenes of the development and test splits."""
    return _scenes(split("development")) | _scenes(split("test"))


def training_scenes(rng: random.Random) -> Iterator[Scene]:
    """Random scenes that training may see, without end."""
    while True:
        scene = random_scene(rng)
        if may_train(scene):
            yield scene


def may_train(scene: Scene) -> bool:
    """Whether a scene is neither reserved nor holds a held-out pair of colour and shape."""
    return not scene.is_held_out and scene not in reserved()


def _scenes(of: Split) -> frozenset[Scene]:
    return frozenset(of.gallery) | {task.reference for task in of.tasks}


def _references(elsewhere: Set[Scene], rng: random.Random) -> dict[Scene, None]:
    scenes: dict[Scene, None] = {}
    while len(scenes) < REFERENCES:
        if (scene := random_scene(rng)) not in elsewhere:
            scenes[scene] = None
    return scenes


def _edits(scene: Scene, number: int, taken: Set[Scene], rng: random.Random) -> tuple[Edit, ...]:
    """Edits that lead to `number` different scenes, none of them taken."""
    edits: dict[Scene, Edit] = {}
    while len(edits) < number:
        edit = random_edit(scene, rng)
        if (after := edit.apply(scene)) not in taken:
            edits.setdefault(after, edit)
    return tuple(edits.values())

"""Scenes, edits and their images."""

import hashlib
import random
from dataclasses import asdict

import numpy as np
import pytest

from rtd_plugin.miniature.rendering import SIDE, render
from rtd_plugin.miniature.world import ATTRIBUTES, COLOURS, HELD_OUT, KINDS, SHAPES, Scene, random_edit, random_scene


@pytest.fixture(scope="module")
def edits():
    """Pairs of a scene and an edit of it."""
    rng = random.Random(0)
    scenes = [random_scene(rng) for _ in range(800)]
    return [(scene, random_edit(scene, rng)) for scene in scenes]


def pixels(scene):
    return np.asarray(render(scene)).astype(int)


def test_a_scene_is_parsed_from_its_name(edits):
    for scene, edit in edits:
        assert Scene.parse(str(scene)) == scene
        assert Scene.parse(str(edit.apply(scene))) == edit.apply(scene)


def test_an_edit_changes_only_its_kind(edits):
    for scene, edit in edits:
        after = edit.apply(scene)
        assert after.is_valid
        assert after != scene
        assert (after.background != scene.background) == (edit.kind == "background")
        removed, added = set(scene.things) - set(after.things), set(after.things) - set(scene.things)
        match edit.kind:
            case "background":
                assert not removed
                assert not added
            case "add":
                assert not removed
                assert added == {edit.after}
            case "remove":
                assert not added
                assert removed == {edit.before}
            case attribute:
                ((before,), (new,)) = removed, added
                assert [key for key in ATTRIBUTES if getattr(before, key) != getattr(new, key)] == [attribute]


def test_kinds_are_equally_frequent(edits):
    kinds = [edit.kind for _, edit in edits]
    shares = [kinds.count(kind) / len(kinds) for kind in KINDS]
    assert min(shares) > 0.085
    assert max(shares) < 0.165


def test_a_sixth_of_the_pairs_is_held_out():
    assert len(HELD_OUT) * 6 == len(COLOURS) * len(SHAPES)
    assert {colour for colour, _ in HELD_OUT} == set(COLOURS)
    assert {shape for _, shape in HELD_OUT} == set(SHAPES)


def test_a_picture_depends_only_on_the_scene():
    scene = Scene.parse("pink+large-striped-red-heart-left+small-dotted-blue-star-top")
    first = render(scene)
    for _ in range(3):
        render(random_scene(random.Random(1)))
    assert first.mode == "RGB"
    assert first.size == (SIDE, SIDE)
    assert render(scene).tobytes() == first.tobytes()
    assert hashlib.sha256(first.tobytes()).hexdigest()[:16] == "7d4c95d9fb078307"


def test_every_edit_changes_the_picture(edits):
    for scene, edit in edits:
        changed = np.abs(pixels(scene) - pixels(edit.apply(scene))).max(axis=2) > 40
        assert changed.sum() >= 8, (scene, edit)


def test_a_thing_is_drawn_at_its_place():
    thing = "large-plain-red-circle"
    for place, (row, column) in {"left": (24, 11), "right": (24, 37), "top": (11, 24), "bottom": (37, 24)}.items():
        scene = Scene.parse(f"white+{thing}-{place}")
        assert tuple(pixels(scene)[row, column]) == (230, 25, 35)
        assert asdict(scene.things[0])["place"] == place

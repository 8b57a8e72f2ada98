"""Captions and conditions: their content, and the words that training never uses."""

import random
import re
from string import Formatter

import pytest

from rtd_plugin.miniature.language import (
    KEYWORDS,
    PLACE_WORDS,
    SIZE_WORDS,
    TEXTURE_WORDS,
    caption,
    condition,
    noisy_caption,
    with_article,
)
from rtd_plugin.miniature.phrasings import PATTERNS, REFERENTS, STRAY_WORDS, WRAPPERS
from rtd_plugin.miniature.splits import draw_training_scenes
from rtd_plugin.miniature.world import KINDS, Scene, random_edit, random_scene

VALUE_WORDS = {**SIZE_WORDS, **TEXTURE_WORDS, **PLACE_WORDS}


def says(text, value):
    """Whether a text names an attribute's value, in any of its words."""
    words = VALUE_WORDS.get(value, (value,))
    return any(re.search(rf"\b{word}", text) for word in words if word) or (
        value in SIZE_WORDS and f"{value}er" in text
    )


@pytest.fixture(scope="module")
def edits():
    rng = random.Random(0)
    return [(scene, random_edit(scene, rng)) for scene in (random_scene(rng) for _ in range(1000))]


def test_texts_are_reproducible(edits):
    def words(seed):
        rng = random.Random(seed)
        return [(caption(scene, rng), noisy_caption(scene, rng), condition(edit, scene, rng)) for scene, edit in edits]

    assert words(1) == words(1)
    assert words(1) != words(2)


def test_caption_is_complete():
    rng = random.Random(0)
    for _ in range(300):
        scene = random_scene(rng)
        text = caption(scene, rng)
        assert scene.background in text
        for thing in scene.things:
            assert thing.colour in text
            assert thing.shape in text
            assert says(text, thing.size)
            assert says(text, thing.place)
            assert thing.texture == "plain" or says(text, thing.texture)


@pytest.mark.parametrize("group", PATTERNS)
def test_condition_names_the_new_value(edits, group):
    rng = random.Random(0)
    for scene, edit in edits:
        text = condition(edit, scene, rng, group)
        assert text == text.lower().strip()
        assert "  " not in text
        match edit.kind:
            case "background":
                assert edit.background in text
            case "remove":
                assert any(says(text, thing.shape) or says(text, thing.colour) for thing in scene.things)
            case "add":
                assert all(says(text, value) for value in (edit.after.colour, edit.after.shape, edit.after.place))
            case attribute:
                assert says(text, getattr(edit.after, attribute)), text


@pytest.mark.parametrize("group", PATTERNS)
def test_condition_identifies_one_of_two_things(edits, group):
    """Where one condition fits two edits of a scene, the wrong target would be as right as the right one."""
    rng = random.Random(0)
    for scene, edit in edits:
        if len(scene.things) == 2 and edit.before:
            text = condition(edit, scene, rng, group)
            meant, other = edit.before, next(thing for thing in scene.things if thing != edit.before)
            named = [key for key in ("shape", "colour", "place") if says(text, getattr(meant, key))]
            assert named or (edit.kind == "remove" and (says(text, other.shape) or says(text, other.colour))), text


def test_phrasings_are_disjoint_and_many():
    assert set(PATTERNS) == set(WRAPPERS) == set(REFERENTS) == {"seen", "unseen", "independent"}
    assert all(set(patterns) == set(KINDS) for patterns in PATTERNS.values())
    for kind in KINDS:
        seen, unseen = PATTERNS["seen"][kind], PATTERNS["unseen"][kind]
        assert len(set(seen)) == len(seen) >= 15
        assert len(set(unseen)) == len(unseen) >= 8
    everything = {group: {p for patterns in PATTERNS[group].values() for p in patterns} for group in PATTERNS}
    assert not everything["seen"] & everything["unseen"]
    assert set(WRAPPERS["seen"]) & set(WRAPPERS["unseen"]) == {"{}"}


def test_unseen_phrasings_have_words_that_training_never_uses():
    def words(group):
        patterns = (p for patterns in PATTERNS[group].values() for p in patterns)
        texts = (*patterns, *WRAPPERS[group], *REFERENTS[group])
        return {word for text in texts for word in re.sub(r"\{\w*\}", " ", text).split()}

    rng = random.Random(0)
    scenes = draw_training_scenes(rng)
    captions = {word for _ in range(2000) for word in noisy_caption(next(scenes), rng).split()}
    new = words("unseen") - words("seen") - captions
    assert len(new) >= 40
    assert not new & {*STRAY_WORDS, *KEYWORDS}


def test_captions_hold_no_condition():
    """Captions may have single words of conditions, but no whole phrasing."""
    rng = random.Random(0)
    scenes = draw_training_scenes(rng)
    captions = [noisy_caption(next(scenes), rng) for _ in range(2000)]
    conditions = set()
    for _ in range(2000):
        scene = next(scenes)
        conditions.add(condition(random_edit(scene, rng), scene, rng))
    assert not conditions & set(captions)


def test_patterns_name_known_fields():
    fields = {name for group in PATTERNS.values() for patterns in group.values() for p in patterns for _, name, *_ in
              Formatter().parse(p) if name}  # fmt: skip
    assert fields <= {"it", "rest", "shape", "colour", "new", "old", "a_new", "an_old", "comparative", "a_thing",
                      "at_place", "background", "old_background"}  # fmt: skip


def test_articles_fit_the_next_letter():
    assert with_article("orange circle") == "an orange circle"
    assert with_article("red circle") == "a red circle"


def test_a_caption_names_all_attributes_of_a_thing():
    scene = Scene.parse("grey+small-plain-red-circle-left")
    assert caption(scene, random.Random(4)) == "there is a small red circle on the left on grey"

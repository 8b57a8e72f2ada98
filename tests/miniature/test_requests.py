"""Conditions of the miniature's edits by the grammar."""

import hashlib
import random
import re

import pytest

from rtd_plugin.miniature.phrasings import UNSEEN_WORDS
from rtd_plugin.miniature.requests import make_request, write_grammar_condition
from rtd_plugin.miniature.world import KINDS, Edit, Scene, Thing, random_edit, random_scene
from rtd_plugin.phrasing.conditions import _parse_fields
from rtd_plugin.phrasing.patterns import PATTERNS

SCENE = Scene.parse("grey+small-plain-red-circle-left+large-dotted-blue-star-top")
STAR, CIRCLE = (Thing(*name.split("-")) for name in ("large-dotted-blue-star-top", "small-plain-red-circle-left"))


def change(**values):
    """An edit of the star in one attribute."""
    (kind,) = values
    return Edit(kind, STAR, Thing(**{**vars(STAR), **values}))


def write_many(edit, scene=SCENE, count=200):
    return {write_grammar_condition(edit, scene, random.Random(seed)) for seed in range(count)}


@pytest.mark.parametrize(
    ("edit", "kind", "fields"),
    [
        (change(colour="green"), "attribute", {"noun": "star", "old_value": "blue", "a_new": "a green star"}),
        (change(size="small"), "attribute", {"old_value": "large", "comparative": "smaller"}),
        (change(texture="plain"), "attribute", {"old_value": "dotted", "new_value": "plain"}),
        (Edit("background", background="pink"), "attribute", {"the_old": "the grey background", "new_value": "pink"}),
        (change(shape="heart"), "noun", {"main": "", "is": "is"}),
        (change(place="bottom"), "place", {}),
        (Edit("remove", before=STAR), "remove", {"subject_is": "is"}),
    ],
)  # fmt: skip
def test_an_edit_becomes_a_request(edit, kind, fields):
    request = make_request(edit, SCENE, random.Random(0))
    assert request.kind == kind
    assert fields.items() <= request.fields.items()
    assert "sole" not in request.fields


def test_an_addition_becomes_a_request():
    request = make_request(Edit("add", after=STAR), Scene.of("grey", [CIRCLE]), random.Random(0))
    assert request.kind == "add"
    assert request.fields["the_subject"] == "the circle"
    assert re.fullmatch(r"a (large|big) (dotted|spotted) blue star (at the top|on the top)", request.fields["a_thing"])


def test_fields_are_those_of_the_grammars_patterns():
    rng = random.Random(0)
    for _ in range(500):
        scene = random_scene(rng)
        request = make_request(random_edit(scene, rng), scene, rng)
        assert request.fields.keys() <= set().union(*map(_parse_fields, PATTERNS[request.kind]))


def test_a_thing_is_not_named_by_what_changes():
    rng = random.Random(0)
    names = {make_request(change(colour="green"), SCENE, rng).fields["the_noun"] for _ in range(50)}
    assert names == {"the star", "the star at the top"}
    names = {make_request(change(place="left"), SCENE, rng).fields["the_subject"] for _ in range(50)}
    assert names == {"the star", "the blue star"}


def test_conditions_are_lower_case_without_a_full_stop():
    texts = write_many(Edit("remove", before=STAR))
    assert len(texts) > 50
    assert "has no star" in texts
    assert all(text == text.lower() and not text.endswith(".") for text in texts)


def test_conditions_have_no_word_that_only_unseen_phrasings_have():
    rng = random.Random(0)
    kinds = set()
    for _ in range(3000):
        scene = random_scene(rng)
        edit = random_edit(scene, rng)
        kinds.add(edit.kind)
        assert UNSEEN_WORDS.isdisjoint(re.findall("[a-z]+", write_grammar_condition(edit, scene, rng)))
    assert kinds == set(KINDS)


@pytest.mark.parametrize("edit", [change(colour="green"), change(shape="heart"), Edit("remove", before=STAR)])
def test_conditions_name_one_of_two_things(edit):
    assert all("star" in text for text in write_many(edit))


def test_conditions_about_the_only_thing_need_not_name_it():
    alone = Scene.of("grey", [STAR])
    assert any("star" not in text for text in write_many(change(colour="green"), alone))


def test_only_another_background_is_a_change_of_the_background():
    assert all("background" in text for text in write_many(Edit("background", background="pink")))
    assert not any("background" in text for text in write_many(change(place="left")))


def test_the_grammar_writes_the_conditions_with_which_the_recipes_were_measured():
    """Another digest means other training conditions: measure docs/miniature.md again before it is changed here."""
    rng = random.Random("conditions")
    texts = []
    for _ in range(500):
        scene = random_scene(rng)
        texts.append(write_grammar_condition(random_edit(scene, rng), scene, rng))
    assert hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16] == "49e521ca1bcbb818"

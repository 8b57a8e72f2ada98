"""The miniature's edits as requests of the grammar in `rtd_plugin/phrasing/`, for conditions of text triplets."""

import random
import re
from dataclasses import replace

from rtd_plugin.miniature.language import COMPARATIVES, PLACE_WORDS, choose_word, noun_phrase, with_article
from rtd_plugin.miniature.phrasings import UNSEEN_WORDS
from rtd_plugin.miniature.world import Edit, Scene, Thing
from rtd_plugin.phrasing.conditions import Request, write_condition
from rtd_plugin.phrasing.registers import REQUESTS

# All texts of the miniature are lower case, and the patterns that all registers have are equally likely.
REGISTER = replace(
    REQUESTS,
    moods={"imperative": 40, "predicate": 18, "clause": 22, "noun": 20},
    orders={"old first": 36, "new first": 30, "one alone": 34},
    openings={},
    patterns={},
    framed=0.4,
    sentence_case=0.0,
    full_stop=0.0,
)
WITH_COLOUR = 0.3  # the share of things whose colour is named although another attribute changes
_WORD = re.compile("[a-z]+")


def write_grammar_condition(edit: Edit, scene: Scene, rng: random.Random) -> str:
    """Return a condition for `edit` of the reference `scene` by the grammar, lower case.

    It has none of the words that only "unseen" phrasings have. In a scene with two things it names the shape of the one
    that changes, or the background: otherwise it would fit two edits of the scene.
    """
    subject = edit.before.shape if edit.before else "background"
    # The grammar also asks for another place of a thing as for another background, which is a change of its own here.
    avoided = UNSEEN_WORDS if edit.kind == "background" else UNSEEN_WORDS | {"background"}
    while True:
        text = write_condition([make_request(edit, scene, rng)], rng, REGISTER)
        words = _WORD.findall(text)
        if avoided.isdisjoint(words) and (len(scene.things) == 1 or subject in words):
            return text


def make_request(edit: Edit, scene: Scene, rng: random.Random) -> Request:
    """Return the request for `edit` of the reference `scene`; its fields name things and values at random."""
    if edit.before is None:
        return _request_background(edit, scene) if edit.after is None else _request_addition(edit.after, scene, rng)
    if edit.after is None:
        return _request_removal(edit, edit.before, scene, rng)
    role = {"sole": ""} if len(scene.things) == 1 else {}
    if edit.kind == "place":
        return _request_place(edit.before, edit.after, role, rng)
    role["main"] = ""
    if edit.kind == "shape":
        return _request_shape(edit.before, edit.after, role, rng)
    return _request_attribute(edit.kind, edit.before, edit.after, role, rng)


def _request_background(edit: Edit, scene: Scene) -> Request:
    values = _exchange_value("background", scene.background, edit.background)
    return Request("attribute", {"the_noun": "the background", "colour": "", **values})


def _request_attribute(kind: str, before: Thing, after: Thing, role: dict[str, str], rng: random.Random) -> Request:
    """Return the request for another colour, size or texture."""
    word = choose_word(getattr(after, kind), rng)
    noun = before.shape if kind == "colour" else _name_colour(before, rng) + before.shape
    values = _exchange_value(noun, getattr(before, kind), word)
    fields = {"the_noun": f"the {_identify(before, kind, rng)}", **values, **role}
    if kind == "colour":
        fields["colour"] = ""
    if kind == "size":
        fields["comparative"] = COMPARATIVES[word]
    return Request("attribute", fields)


def _exchange_value(noun: str, old: str, new: str) -> dict[str, str]:
    """Return the fields for another value of an attribute that is said before its noun."""
    return {
        "is": "is",
        "predicative": "",
        "noun": noun,
        "old_value": old,
        "new_value": new,
        "old": f"{old} {noun}",
        "new": f"{new} {noun}",
        "the_old": f"the {old} {noun}",
        "a_old": with_article(f"{old} {noun}"),
        "a_new": with_article(f"{new} {noun}"),
        "a_new_one": with_article(f"{new} one"),
    }


def _request_shape(before: Thing, after: Thing, role: dict[str, str], rng: random.Random) -> Request:
    colour = _name_colour(before, rng)
    old, new = (colour + thing.shape for thing in (before, after))
    names = {
        "the_old": f"the {_identify(before, 'shape', rng)}",
        "a_old": with_article(old),
        "a_new": with_article(new),
    }
    return Request("noun", {"is": "is", "is_old": "is", "old": old, **names, **role})


def _request_place(before: Thing, after: Thing, role: dict[str, str], rng: random.Random) -> Request:
    places = {"old_place": choose_word(before.place, rng), "new_place": choose_word(after.place, rng)}
    return Request("place", {"is": "is", "the_subject": f"the {_identify(before, 'place', rng)}", **places, **role})


def _request_addition(thing: Thing, scene: Scene, rng: random.Random) -> Request:
    (other,) = scene.things
    added = f"{with_article(noun_phrase(thing, rng))} {choose_word(thing.place, rng)}"
    subject = {"the_subject": f"the {other.shape}", "subject_is": "is", "subject_has": "has"}
    return Request("add", {"is": "is", "and": "", "a_thing": added, **subject})


def _request_removal(edit: Edit, thing: Thing, scene: Scene, rng: random.Random) -> Request:
    (rest,) = edit.apply(scene).things
    name = _identify(thing, "thing", rng)
    removed = {"bare": name, "the_thing": f"the {name}", "a_thing": with_article(name)}
    kept = rng.choice((rest.shape, f"{rest.colour} {rest.shape}"))
    subject = {"the_subject": f"the {kept}", "subject_is": "is", "subject_has": "has"}
    return Request("remove", {"is": "is", "and": "", **removed, **subject})


def _name_colour(thing: Thing, rng: random.Random) -> str:
    """Return the colour of a thing, with a space, or nothing."""
    return f"{thing.colour} " if rng.random() < WITH_COLOUR else ""


def _identify(thing: Thing, changed: str, rng: random.Random) -> str:
    """Return words for a thing by its shape and at most one attribute, not the one that changes."""
    names = {"colour": f"{thing.colour} {thing.shape}", "place": f"{thing.shape} {PLACE_WORDS[thing.place][0]}"}
    return rng.choice([thing.shape, thing.shape, *(name for key, name in names.items() if key != changed)])

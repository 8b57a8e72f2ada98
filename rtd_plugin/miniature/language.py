"""Texts about scenes: captions, and conditions that request an edit.

CLIP is pre-trained on captions; conditions appear in text triplets and queries only. A phrasing is a pattern of
`phrasings.py` in a wrapper. Patterns and wrappers of the groups "seen" (triplets, queries) and "unseen" (queries only)
are disjoint; those of "independent" (queries only) were written apart. `requests.py` phrases the other triplets.
"""

import random
from collections.abc import Sequence

from rtd_plugin.miniature.phrasings import PATTERNS, REFERENTS, STRAY_WORDS, WRAPPERS
from rtd_plugin.miniature.world import BACKGROUNDS, COLOURS, PLACES, SHAPES, Edit, Scene, Thing

SIZE_WORDS = {"small": ("small", "small", "little"), "large": ("large", "large", "big")}
TEXTURE_WORDS = {"plain": ("", "", "plain"), "striped": ("striped",), "dotted": ("dotted", "dotted", "spotted")}
PLACE_WORDS = {
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
    "top": ("at the top", "on the top"),
    "bottom": ("at the bottom", "on the bottom"),
}
WORDS = SIZE_WORDS | TEXTURE_WORDS | PLACE_WORDS
COMPARATIVES = {"big": "bigger", "large": "larger", "small": "smaller", "little": "smaller"}
BACKGROUND_WORDS = ("on a {} background", "with a {} background", "against a {} background", "on {}")
# Words that captions on the web leave out, and words that captions are about.
DETAILS = frozenset(" ".join(sum((*SIZE_WORDS.values(), *TEXTURE_WORDS.values()), COLOURS)).split())
KEYWORDS = DETAILS | set(SHAPES) | set(PLACES) | set(BACKGROUNDS)
# Fields of a pattern that identify one of two things; a shape that changes is named by the old one.
_NAMING = (("{it}", "{shape}", "{rest}"), ("{it}", "{old}", "{an_old}"))
OPENINGS = ("a photo of {}", "a picture of {}", "{}", "there is {}", "this shows {}", "an image with {}")


def caption(scene: Scene, rng: random.Random) -> str:
    """Return a full description in one of many phrasings, lower case."""
    things = [f"{with_article(noun_phrase(t, rng))} {rng.choice(PLACE_WORDS[t.place])}" for t in scene.things]
    rng.shuffle(things)
    background = rng.choice(BACKGROUND_WORDS).format(scene.background)
    return f"{rng.choice(OPENINGS).format(' and '.join(things))} {background}"


def noisy_caption(scene: Scene, rng: random.Random) -> str:
    """Return a caption like those on the web: often incomplete, with words that do not describe the image."""
    words = caption(scene, rng).split()
    if rng.random() < 0.25:
        words = [word for word in words if word not in DETAILS or rng.random() < 0.6]
    if rng.random() < 0.3:
        for _ in range(rng.choice((1, 2, 3))):
            words.insert(rng.randrange(len(words) + 1), rng.choice(STRAY_WORDS))
    return " ".join(words)


def condition(edit: Edit, scene: Scene, rng: random.Random, group: str = "seen") -> str:
    """Return a request for `edit` of the reference `scene`, phrased as in CIRR, lower case.

    Args:
        group: "seen", "unseen" or "independent", the phrasings to choose from.
    """
    patterns: Sequence[str] = PATTERNS[group][edit.kind]
    if edit.before and len(scene.things) == 2:
        patterns = [pattern for pattern in patterns if any(field in pattern for field in _NAMING[edit.kind == "shape"])]
    pattern = rng.choice(patterns)
    text = pattern.format(**_fill_fields(edit, scene, rng, group))
    return rng.choice(WRAPPERS[group]).format(text)


def noun_phrase(thing: Thing, rng: random.Random) -> str:
    """Return a description of a thing without its place, such as "small striped red circle"."""
    words = (rng.choice(SIZE_WORDS[thing.size]), rng.choice(TEXTURE_WORDS[thing.texture]), thing.colour, thing.shape)
    return " ".join(word for word in words if word)


def choose_word(value: str, rng: random.Random) -> str:
    """Return words for the value of an attribute, which are never empty."""
    return rng.choice([word for word in WORDS.get(value, (value,)) if word])


def with_article(phrase: str) -> str:
    """Return the phrase with its indefinite article."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _fill_fields(edit: Edit, scene: Scene, rng: random.Random, group: str) -> dict[str, str]:
    """Return the fields of the patterns: the thing in question, its old and new value, other things."""
    fields = {"background": edit.background, "old_background": scene.background}
    thing = edit.before or edit.after
    if thing is None:
        return fields
    fields |= {
        "it": _identify(thing, scene, rng, group),
        "shape": thing.shape,
        "colour": thing.colour,
        "a_thing": with_article(noun_phrase(thing, rng)),
        "at_place": rng.choice(PLACE_WORDS[thing.place]),
    }
    if edit.kind == "remove":
        (rest,) = edit.apply(scene).things
        fields["rest"] = _identify(rest, scene, rng, group)
    elif edit.kind != "add":
        old, new = (getattr(t, edit.kind) for t in (edit.before, edit.after))
        word = choose_word(new, rng)
        fields |= {"new": word, "old": old, "a_new": with_article(word), "an_old": with_article(old)}
        fields["comparative"] = COMPARATIVES.get(word, "")
    return fields


def _identify(thing: Thing, scene: Scene, rng: random.Random, group: str) -> str:
    """Return words that identify a thing of the scene."""
    if len(scene.things) == 1:
        return rng.choice((*REFERENTS[group], f"the {thing.shape}"))
    shape = f"the {thing.shape}"
    choices = [shape, f"the {thing.colour} {thing.shape}", f"{shape} {PLACE_WORDS[thing.place][0]}"]
    if len({other.colour for other in scene.things}) == 2:
        choices.append(f"the {thing.colour} one")
    return rng.choice(choices)

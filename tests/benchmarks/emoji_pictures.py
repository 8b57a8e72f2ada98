"""Pictures of emoji on coloured backdrops, with captions made of the emoji's own names, and edits between them.

The emoji are those of the npm packages `emoji-datasource-COLLECTION`: each collection draws the same names its own way.
"""

import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rtd_plugin.phrasing.conditions import Request, write_condition
from rtd_plugin.phrasing.registers import REQUESTS

REGISTER = replace(REQUESTS, sentence_case=0.0, full_stop=0.0)  # all texts here are in lower case
SIDE = 48  # pixels of a picture
SIZES = {"small": 30, "large": 42}  # pixels of the emoji
BACKDROPS = {
    "red": (214, 40, 40), "orange": (247, 127, 0), "yellow": (255, 214, 10), "green": (56, 142, 60),
    "blue": (25, 90, 200), "purple": (123, 44, 191), "pink": (255, 153, 200), "gray": (140, 140, 140),
}  # fmt: skip
TONES = {
    "1F3FB": "light", "1F3FC": "medium-light", "1F3FD": "medium", "1F3FE": "medium-dark", "1F3FF": "dark",
}  # fmt: skip
HELD_OUT = 4  # one in so many pictures is only in benchmarks
MAX_WORDS = 7  # of a name: a caption fits into 32 tokens
OPENINGS = ("a photo of {}", "a picture of {}", "{}", "{}", "there is {}", "this shows {}", "an image of {}")
_OPENING = "^(" + "|".join(opening.removesuffix("{}") for opening in OPENINGS if opening != "{}") + ")"
BACKGROUND_WORDS = ("on {} background", "with {} background", "against {} background")
FUNCTION_WORDS = {
    "a", "an", "against", "background", "image", "is", "of", "on", "photo", "picture", "shows", "skin", "there", "this",
    "tone", "with",
}  # fmt: skip
# Words of UNSEEN_PATTERNS that no condition of a triplet has.
UNSEEN_WORDS = {
    "apart", "around", "backdrop", "becomes", "complexion", "grow", "identical", "kept", "looking", "painted", "prefer",
    "scale", "shrink", "somebody", "surroundings", "swap", "swapped", "trade", "version", "wall",
}  # fmt: skip
GENDERS = ("person", "man", "woman")
COMPARATIVES = {"small": "smaller", "large": "bigger"}
# The wordings that no triplet has: other verbs, another order, and fragments.
UNSEEN_PATTERNS = {
    "backdrop": (
        "swap {old} for {new} behind the subject", "{old} backdrop becomes {new}", "against a wall painted {new}",
        "identical apart from everything around being {new}", "{new} all around", "trade {old} surroundings for {new}",
    ),
    "size": (
        "i prefer a {comparative} version", "scale it, {old} becomes {new}", "grow or shrink until {new}",
        "identical apart from being {comparative}", "{old} one swapped for {new}", "looking for something {new}",
    ),
    "tone": (
        "{old} complexion becomes {new}", "swap {old} skin for {new}", "i prefer a {new} complexion",
        "identical apart from {new} skin", "somebody whose skin looks {new}", "trade {old} for {new} skin",
    ),
    "gender": (
        "the {old} becomes {a_new}", "swap the {old} for {a_new}", "i prefer {a_new}",
        "identical apart from being {a_new}", "somebody who looks like {a_new}", "trade {an_old} for {a_new}",
    ),
    "thing": (
        "{old} becomes {new}", "swap the {old} for {a_new}", "i prefer {a_new} here",
        "identical apart from {a_new} where the {old} was", "looking for {new} with the rest kept",
        "trade {an_old} for {a_new}",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Emoji:
    """An emoji in one skin tone, drawn by each collection.

    Attributes:
        name: in lower case.
        tone: of its skin; "" if it has none or the usual yellow.
        category: emoji of one category may replace each other.
        file: of its image, equal in all collections.
    """

    name: str
    tone: str
    category: str
    file: str

    @property
    def gender(self) -> str:
        """One of GENDERS; "" if the name has none."""
        return next((word for word in self.name.split() if word in GENDERS), "")


@dataclass(frozen=True)
class Picture:
    """An emoji of a size, keys of SIZES, on a backdrop, a key of BACKDROPS."""

    emoji: Emoji
    size: str
    backdrop: str

    @cached_property
    def is_held_out(self) -> bool:
        """Whether the picture is in benchmarks alone, and not in any training."""
        return crc32(describe(self).encode()) % HELD_OUT == 0


def read_emoji(folder: Path, collections: Sequence[str]) -> list[Emoji]:
    """Return the emoji that all collections have in `folder/COLLECTION/package`, those with skin tones in each tone."""
    package = folder / collections[0] / "package"
    records = json.loads((package / "emoji.json").read_text(encoding="utf-8"))
    emoji: dict[tuple[str, str], Emoji] = {}
    for record in records:
        name = clean_name(record["name"])
        if record["category"] == "Component" or name is None:
            continue
        files = {"": record["image"]}
        files |= {TONES[key]: each["image"] for key, each in record.get("skin_variations", {}).items() if key in TONES}
        for tone, file in files.items():
            if all((folder / each / "package/img" / each / "64" / file).is_file() for each in collections):
                emoji.setdefault((name, tone), Emoji(name, tone, record["subcategory"], file))
    return list(emoji.values())


def clean_name(name: str) -> str | None:
    """Return an emoji's name as a caption's words; None if it has other characters, or too many words."""
    name = name.lower().replace("&", "and").replace("st. ", "saint ").replace("’", "")
    if hair := re.fullmatch(r"(person|man|woman): (\w+ hair|beard|bald)", name):
        name = f"bald {hair[1]}" if hair[2] == "bald" else f"{hair[1]} with {hair[2]}"
    if family := re.fullmatch(r"([a-z ]+): ([a-z, ]+)", name):
        name = f"{family[1]} of {' and '.join(family[2].split(', '))}"
    return name if re.fullmatch(r"[a-z -]+", name) and len(name.split()) <= MAX_WORDS else None


def list_pictures(emoji: Iterable[Emoji]) -> list[Picture]:
    """Return each emoji in all sizes on all backdrops."""
    return [Picture(each, size, backdrop) for each in emoji for size in SIZES for backdrop in BACKDROPS]


def add_article(words: str) -> str:
    """Return the words with their indefinite article, unless they are a plural."""
    head = re.split(r" (?:with|of|in|on|and|behind) |\b(?:person|man|woman) ", words)[0]
    if {"two", "men", "women"} & set(words.split()) or (head.endswith("s") and not head.endswith(("ss", "us"))):
        return words
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def describe(picture: Picture, opening: str = "{}", background: str = BACKGROUND_WORDS[0], details: bool = True) -> str:
    """Return a caption; one without details leaves size and skin tone out."""
    emoji = picture.emoji
    tone = f" with {emoji.tone} skin tone" if emoji.tone and details else ""
    name = f"{picture.size} {emoji.name}" if details else emoji.name
    return f"{opening.format(add_article(name) + tone)} {background.format(add_article(picture.backdrop))}"


def write_caption(picture: Picture, rng: random.Random) -> str:
    """Return a full description in one of several phrasings."""
    return describe(picture, rng.choice(OPENINGS), rng.choice(BACKGROUND_WORDS))


def write_web_caption(picture: Picture, rng: random.Random, stray_words: Sequence[str]) -> str:
    """Return a caption as on the web: often incomplete, with words that do not describe the picture."""
    words = describe(picture, rng.choice(OPENINGS), rng.choice(BACKGROUND_WORDS), rng.random() < 0.8).split()
    if rng.random() < 0.15:
        words = words[:-4]
    if rng.random() < 0.3:
        for _ in range(rng.choice((1, 2, 3))):
            words.insert(rng.randrange(len(words) + 1), rng.choice(stray_words))
    return " ".join(words)


def select_trainable(triplets: Iterable[Mapping[str, str]], pictures: Iterable[Picture]) -> list[Mapping[str, str]]:
    """Return triplets whose captions describe no held-out picture, and whose conditions have no "unseen" word."""
    held_out = {
        _simplify(describe(picture, background=background))
        for picture in pictures
        if picture.is_held_out
        for background in BACKGROUND_WORDS
    }
    return [
        triplet
        for triplet in triplets
        if held_out.isdisjoint([_simplify(triplet["reference_caption"]), _simplify(triplet["target_caption"])])
        and UNSEEN_WORDS.isdisjoint(re.findall("[a-z]+", triplet["conditioning_caption"].lower()))
    ]


def _simplify(caption: str) -> str:
    """Return a caption's words without its opening and without articles."""
    words = re.sub(_OPENING, "", caption.lower()).split()
    return " ".join(word for word in words if word not in ("a", "an", "the"))


class Renderer:
    """Renders pictures of a collection; the place of the emoji and the shade of the backdrop are random.

    Args:
        folder: with `COLLECTION/package/img`.
        collection: the name of a collection.
        emoji: those that pictures may have.
    """

    def __init__(self, folder: Path, collection: str, emoji: Iterable[Emoji]):
        self._drawn: dict[tuple[str, str], NDArray[np.uint8]] = {}
        for each in emoji:
            with Image.open(folder / collection / "package/img" / collection / "64" / each.file) as stored:
                image = stored.convert("RGBA")
            for size, side in SIZES.items():
                self._drawn[each.file, size] = np.asarray(image.resize((side, side), Image.Resampling.LANCZOS))

    def render(self, picture: Picture, rng: random.Random) -> NDArray[np.uint8]:
        """Return the picture's pixels: (SIDE, SIDE, 3)."""
        drawn = self._drawn[picture.emoji.file, picture.size]
        shade = np.array([channel + rng.randrange(-14, 15) for channel in BACKDROPS[picture.backdrop]])
        pixels = np.empty((SIDE, SIDE, 3), dtype=np.uint8)
        pixels[:] = shade.clip(0, 255)
        side = len(drawn)
        top, left = rng.randint(0, SIDE - side), rng.randint(0, SIDE - side)
        area = pixels[top : top + side, left : left + side]
        alpha = drawn[:, :, 3:] / 255
        area[:] = (alpha * drawn[:, :, :3] + (1 - alpha) * area).round()
        return pixels


@dataclass(frozen=True)
class Edit:
    """A change of one attribute between two pictures.

    Attributes:
        kind: a key of UNSEEN_PATTERNS.
        reference, target: before and after.
    """

    kind: str
    reference: Picture
    target: Picture

    def name_values(self) -> tuple[str, str]:
        """Return the words for the attribute's old and new value."""
        before, after = self.reference, self.target
        if self.kind == "backdrop":
            return before.backdrop, after.backdrop
        if self.kind == "size":
            return before.size, after.size
        if self.kind == "tone":
            return before.emoji.tone, after.emoji.tone
        if self.kind == "gender":
            return before.emoji.gender, after.emoji.gender
        return before.emoji.name, after.emoji.name


class Edits:
    """The edits between pictures of a set.

    Args:
        pictures: from which references and targets are drawn.
    """

    def __init__(self, pictures: Iterable[Picture]):
        self._pictures = set(pictures)
        self._sorted = sorted(self._pictures, key=describe)
        emoji = {picture.emoji for picture in self._sorted}
        self._named = {(each.name, each.tone): each for each in emoji}
        self._categories: dict[tuple[str, str, str], list[Emoji]] = {}
        for each in sorted(emoji, key=lambda each: (each.name, each.tone)):
            self._categories.setdefault((each.category, each.tone, each.gender), []).append(each)

    def list_from(self, reference: Picture) -> dict[str, list[Edit]]:
        """Return all edits of a picture by their kind; each kind has at least one."""
        emoji = reference.emoji
        others: dict[str, Iterable[Picture]] = {
            "backdrop": (replace(reference, backdrop=backdrop) for backdrop in BACKDROPS),
            "size": (replace(reference, size=size) for size in SIZES),
            "tone": (self._exchange(reference, emoji.name, tone) for tone in TONES.values() if emoji.tone),
            "gender": (
                self._exchange(reference, re.sub(rf"\b{emoji.gender}\b", gender, emoji.name), emoji.tone)
                for gender in GENDERS
                if emoji.gender
            ),
            "thing": (
                replace(reference, emoji=other) for other in self._categories[emoji.category, emoji.tone, emoji.gender]
            ),
        }
        edits = {
            kind: [
                Edit(kind, reference, target) for target in targets if target != reference and target in self._pictures
            ]
            for kind, targets in others.items()
        }
        return {kind: each for kind, each in edits.items() if each}

    def _exchange(self, picture: Picture, name: str, tone: str) -> Picture:
        """Return the picture with another emoji; the same if there is none of this name and tone."""
        return replace(picture, emoji=self._named.get((name, tone), picture.emoji))

    def draw(self, rng: random.Random) -> Iterator[Edit]:
        """Yield random edits; rare kinds are as frequent as others where a picture allows them."""
        while True:
            edits = self.list_from(rng.choice(self._sorted))
            if edits:
                yield rng.choice(edits[rng.choice(list(edits))])


def write_conditions(edit: Edit, group: str, count: int, rng: random.Random) -> list[str]:
    """Return distinct wordings of an edit: "seen" ones by the grammar of `triplets build rules`, or "unseen" ones."""
    if group == "unseen":
        return [_fill(pattern, edit) for pattern in rng.sample(UNSEEN_PATTERNS[edit.kind], count)]
    wordings: dict[str, None] = {}
    while len(wordings) < count:
        text = write_condition([_make_request(edit)], rng, REGISTER)
        if UNSEEN_WORDS.isdisjoint(re.findall("[a-z]+", text)):
            wordings[text] = None
    return list(wordings)


def _fill(pattern: str, edit: Edit) -> str:
    old, new = edit.name_values()
    articles = {"an_old": add_article(old), "a_new": add_article(new)}
    return pattern.format(old=old, new=new, comparative=COMPARATIVES.get(new, ""), **articles)


def _make_request(edit: Edit) -> Request:
    """Return an edit as a request of the grammar."""
    old, new = edit.name_values()
    if edit.kind in ("gender", "thing"):
        names = {"the_old": f"the {old}", "a_old": add_article(old), "a_new": add_article(new), "old": old}
        return Request("noun", {"is": "is", "sole": "", "main": "", **names})
    noun = {"backdrop": "background", "tone": "skin tone", "size": edit.reference.emoji.name}[edit.kind]
    role = {"size": {"sole": "", "main": "", "comparative": COMPARATIVES.get(new, "")}, "backdrop": {"colour": ""}}
    values = {
        "is": "is", "predicative": "", "the_noun": f"the {noun}", "noun": noun, "old_value": old, "new_value": new,
        "old": f"{old} {noun}", "new": f"{new} {noun}", "the_old": f"the {old} {noun}",
        "a_old": add_article(f"{old} {noun}"), "a_new": add_article(f"{new} {noun}"),
        "a_new_one": add_article(f"{new} one"),
    }  # fmt: skip
    return Request("attribute", values | role.get(edit.kind, {}))

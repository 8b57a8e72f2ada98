"""Scenes, and the edits that turn one scene into another.

A scene is a background with one or two things on it. An edit changes one attribute of one thing, or the background, or
adds or removes a thing: the kinds of change in CSS (TIRG, Vo et al. 2019) and CLEVR-Change.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
SIZES = ("small", "large")
TEXTURES = ("plain", "striped", "dotted")
PLACES = ("left", "right", "top", "bottom")
BACKGROUNDS = ("white", "black", "grey", "pink", "brown", "green")

ATTRIBUTES = {"size": SIZES, "texture": TEXTURES, "colour": COLOURS, "shape": SHAPES, "place": PLACES}
KINDS = ("colour", "shape", "size", "texture", "background", "place", "add", "remove")

# One pair for each colour and each shape: training shows both, but not together.
HELD_OUT = frozenset(zip(COLOURS, SHAPES[2:] + SHAPES[:2], strict=True))


@dataclass(frozen=True)
class Thing:
    """One object of a scene."""

    size: str
    texture: str
    colour: str
    shape: str
    place: str

    @property
    def is_held_out(self) -> bool:
        """Whether training must not show this colour of this shape."""
        return (self.colour, self.shape) in HELD_OUT

    def __str__(self) -> str:
        return "-".join((self.size, self.texture, self.colour, self.shape, self.place))


@dataclass(frozen=True)
class Scene:
    """A background and one or two things, of different shapes and at different places, in the order of `PLACES`."""

    background: str
    things: tuple[Thing, ...]

    @classmethod
    def of(cls, background: str, things: Iterable[Thing]) -> "Scene":
        """Return a scene with its things in order, so that equal images are equal scenes."""
        return cls(background, tuple(sorted(things, key=lambda thing: PLACES.index(thing.place))))

    @classmethod
    def parse(cls, name: str) -> "Scene":
        """Return the scene with this name, `str(scene)`."""
        background, *things = name.split("+")
        return cls.of(background, (Thing(*thing.split("-")) for thing in things))

    @property
    def is_held_out(self) -> bool:
        """Whether training must not show this scene."""
        return any(thing.is_held_out for thing in self.things)

    @property
    def is_valid(self) -> bool:
        """Whether the things differ in shape and in place."""
        distinct = all(len({getattr(t, key) for t in self.things}) == len(self.things) for key in ("shape", "place"))
        return distinct and 1 <= len(self.things) <= 2

    def __str__(self) -> str:
        return "+".join((self.background, *map(str, self.things)))


@dataclass(frozen=True)
class Edit:
    """One change of a scene.

    Attributes:
        kind: one of `KINDS`.
        before: the thing that is changed or removed.
        after: what it becomes, or the thing that is added.
        background: the new background where `kind` is "background".
    """

    kind: str
    before: Thing | None = None
    after: Thing | None = None
    background: str = ""

    def apply(self, scene: Scene) -> Scene:
        """Return the scene after the change."""
        things = [thing for thing in scene.things if thing != self.before]
        if self.after:
            things.append(self.after)
        return Scene.of(self.background or scene.background, things)


def random_thing(rng: random.Random) -> Thing:
    """Return a thing with every attribute drawn uniformly."""
    return Thing(**{key: rng.choice(values) for key, values in ATTRIBUTES.items()})


def random_scene(rng: random.Random) -> Scene:
    """Return a scene with one or two things, equally often."""
    count = rng.choice((1, 2))
    while True:
        things = [random_thing(rng) for _ in range(count)]
        scene = Scene.of(rng.choice(BACKGROUNDS), things)
        if scene.is_valid:
            return scene


def random_edit(scene: Scene, rng: random.Random) -> Edit:
    """Return an edit that leads to another valid scene, every kind equally often over random scenes."""
    # Only one of "add" and "remove" fits a scene, so drawing from all kinds would make both half as frequent.
    # This one is drawn twice as often instead.
    fitting = "add" if len(scene.things) == 1 else "remove"
    kind = rng.choice((*KINDS[:-2], fitting, fitting))
    while True:
        edit = _draw_edit(kind, scene, rng)
        if edit.apply(scene).is_valid:
            return edit


def _draw_edit(kind: str, scene: Scene, rng: random.Random) -> Edit:
    thing = rng.choice(scene.things)
    if kind == "background":
        return Edit(kind, background=_draw_other(BACKGROUNDS, scene.background, rng))
    if kind == "add":
        return Edit(kind, after=random_thing(rng))
    if kind == "remove":
        return Edit(kind, before=thing)
    return Edit(kind, thing, replace(thing, **{kind: _draw_other(ATTRIBUTES[kind], getattr(thing, kind), rng)}))


def _draw_other(values: tuple[str, ...], current: str, rng: random.Random) -> str:
    return rng.choice([value for value in values if value != current])

"""Edits of the image rather than of its content: camera, background, light, and the pose of its subject."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rtd_plugin.generation.rules.fragments import DETAIL, is_title
from rtd_plugin.generation.rules.phrases import NounPhrase
from rtd_plugin.generation.rules.scene import Change, Edit, Scene, describe_subject, mention_subject
from rtd_plugin.generation.rules.word_classes import ANIMALS, FIXED, NUMBERS, PEOPLE


class View(NamedTuple):
    """A camera view, a background, a light or a pose, and how captions and conditions name it.

    Attributes:
        name: a field that restricts patterns to it.
        caption: its words in a caption: before the caption if they end in "of", at its end, or, for a pose, after the
            subject.
        fields: further fields of its conditions.
        excluded: words of captions that it does not go with.
    """

    name: str
    caption: str
    fields: dict[str, str]
    excluded: str = ""


_PLACED = "in on at through into near by over under across along behind beside outside inside around down up"
DETERMINERS = ("a", "the", *NUMBERS)
SHARES = {"view": 0.35, "facing": 0.3, "posture": 0.2}  # of captions, so that these kinds do not crowd out the others


def _list_angles() -> Iterator[View]:
    for place in ("above", "behind", "the side", "below", "the front"):
        yield View("angle", f"seen from {place}", {"new_view": f"from {place}", "new_seen": f"seen from {place}"})


def _list_backgrounds() -> Iterator[View]:
    for value, excluded in (
        ("blurred", ""), ("plain white", _PLACED), ("black", _PLACED), ("grey", _PLACED), ("plain", _PLACED),
    ):  # fmt: skip
        yield View("background", f"with a {value} background", {"new_backdrop": value}, excluded)


_DARK = "sun sunny sunlight night dark light lights snow day sunset sunrise shade room"
VIEWS: dict[str, tuple[View, ...]] = {
    "distance": (
        View("close", "a close-up of", {"new_view": "up close", "new_photo": "a close-up"}),
        View("far", "seen from far away", {"new_view": "from far away", "new_seen": "seen from far away"}),
    ),
    "angle": tuple(_list_angles()),
    "background": tuple(_list_backgrounds()),
    "light": (
        View("bright", "in bright sunlight", {"new_view": "in bright sunlight"}, f"{_DARK} in"),
        View("dim", "in dim light", {"new_view": "in dim light"}, f"{_DARK} in"),
        View("night", "at night", {"new_view": "at night"}, _DARK),
    ),
    "picture": (
        View("colourless", "a black and white photo of", {"new_photo": "a black and white photo"}, "black white"),
        View("drawn", "a drawing of", {"new_photo": "a drawing"}),
        View("drawn", "a painting of", {"new_photo": "a painting"}),
    ),
}
_FACING = (
    View("facing", "facing left", {"new_seen": "facing left", "new_face": "left", "new_side": "left"}),
    View("facing", "facing right", {"new_seen": "facing right", "new_face": "right", "new_side": "right"}),
    View("facing", "facing the camera", {"new_seen": "facing the camera", "new_face": "the camera"}),
    View(
        "facing", "facing away from the camera", {"new_seen": "facing away from the camera", "new_face": "away from us"}
    ),
)
_POSTURES = (
    View(
        "posture",
        "with its mouth open",
        {"new_seen": "with its mouth open", "new_having": "its mouth open"},
        "mouth toy",
    ),
    View(
        "posture",
        "with its tongue out",
        {"new_seen": "with its tongue out", "new_having": "its tongue out"},
        "mouth toy",
    ),
    View("posture", "with its head down", {"new_seen": "with its head down", "new_having": "its head down"}, "head"),
    View(
        "posture", "with its eyes closed", {"new_seen": "with its eyes closed", "new_having": "its eyes closed"}, "eyes"
    ),
)
_EXPRESSIONS = (
    View(
        "posture",
        "with crossed arms",
        {"new_seen": "with crossed arms", "new_having": "crossed arms"},
        "arm arms hand hands",
    ),
    View(
        "posture",
        "with raised arms",
        {"new_seen": "with raised arms", "new_having": "raised arms"},
        "arm arms hand hands",
    ),
    View(
        "posture", "with a big smile", {"new_seen": "with a big smile", "new_having": "a big smile"}, "smile mouth face"
    ),
)
# Verbs of those who have their hands or mouths full.
_BUSY = frozenset([
    "hold", "carry", "push", "pull", "climb", "swim", "dive", "fight", "wrestle", "eat", "bite", "catch", "ride", "rid",
    "throw", "play", "paint", "drink", "lift", "hang", "swing", "rappel", "bike", "cook", "drive", "row", "lie", "lay",
])  # fmt: skip


def change_views(scene: Scene) -> Iterator[Edit]:
    """Yield edits that exchange or add a camera view, a background, a light, or a photo for a drawing."""
    subject = _find_subject(scene)
    if subject is None or scene.rng.random() > SHARES["view"]:
        return
    words = {token.lower_ for token in scene.doc}
    group = scene.rng.choice(sorted(VIEWS))
    views = _list_suitable(VIEWS[group], words)
    if subject.head.dep_ != "ROOT":  # "a drawing of" would take the verb from its subject
        views = [view for view in views if not view.caption.endswith(" of")]
    yield from _change(scene, subject, "view", group, views)


def change_poses(scene: Scene) -> Iterator[Edit]:
    """Yield edits that exchange or add the direction that the subject faces, or its posture."""
    subject = _find_subject(scene)
    if subject is None or subject.plural or _is_followed_by_more(scene, subject):
        return
    noun = subject.noun
    if noun not in ANIMALS and noun not in PEOPLE:
        return
    words = {token.lower_ for token in scene.doc}
    draws = {group: scene.rng.random() for group in ("facing", "posture")}
    if draws["facing"] < SHARES["facing"] and not words & {
        "facing",
        "face",
        "left",
        "right",
        "camera",
        "look",
        "looks",
        "looking",
        "back",
        "front",
    }:
        yield from _change(scene, subject, "pose", "facing", _FACING)
    if (
        draws["posture"] < SHARES["posture"]
        and not _BUSY & {token.lemma_.lower() for token in scene.doc}
        and not words & {"its", "with"}
    ):
        postures = _POSTURES if noun in ANIMALS else _EXPRESSIONS
        yield from _change(scene, subject, "pose", "posture", _list_suitable(postures, words))


def _find_subject(scene: Scene) -> NounPhrase | None:
    """Return the noun phrase that begins a caption and that the caption is about; None in titles and fragments."""
    if any(token.dep_ == DETAIL for token in scene.doc) or is_title(scene.doc.text):
        return None
    subject = next((phrase for phrase in scene.phrases if phrase.start == 0), None)
    if subject is None or (subject.determiner not in DETERMINERS and not subject.plural):
        return None
    if not scene.is_main(subject) or not scene.is_unique(subject) or subject.noun in FIXED:
        return None
    return subject


def _is_followed_by_more(scene: Scene, subject: NounPhrase) -> bool:
    """Return whether more than a verb follows a noun: words after the noun would then describe something else."""
    after = scene.doc[subject.end] if subject.end < len(scene.doc) else None
    return after is None or not (after.pos_ in ("VERB", "AUX") or after.is_punct)


def _list_suitable(views: Sequence[View], words: set[str]) -> list[View]:
    return [view for view in views if not words & set(view.excluded.split())]


def _change(scene: Scene, subject: NounPhrase, kind: str, group: str, views: Sequence[View]) -> Iterator[Edit]:
    """Yield one edit that adds a view, or exchanges another one for it."""
    if not views:
        return
    new = scene.rng.choice(views)
    fields = _describe(scene, subject, new)
    others = [view for view in views if view.name != new.name or view.caption != new.caption]
    reference = tuple[Change, ...]()
    target, anchors = _place(scene, subject, new, kind)
    if others and scene.rng.random() < 0.5:
        old = scene.rng.choice(others)
        reference, more = _place(scene, subject, old, kind)
        anchors |= more
        fields |= {name.replace("new", "old"): old.fields[name] for name in new.fields.keys() & old.fields.keys()}
    fields, mentions = mention_subject(scene, fields, subject)
    yield Edit(kind, fields, anchors, reference, target, group, mentions)


def _describe(scene: Scene, subject: NounPhrase, view: View) -> dict[str, str]:
    number = {"is": "are" if subject.plural else "is"}
    return {view.name: "", **number, **describe_subject(scene, subject), **view.fields}


def _place(scene: Scene, subject: NounPhrase, view: View, kind: str) -> tuple[tuple[Change, ...], frozenset[int]]:
    """Return the change that writes a view into the caption, and the tokens that it replaces."""
    doc = scene.doc
    if view.caption.endswith(" of"):
        first = doc[0].text if doc[0].tag_ in ("NNP", "NNPS") else doc[0].lower_
        return ((0, 1, f"{view.caption} {first}"),), frozenset([0])
    if kind == "pose":
        return ((subject.end, subject.end + 1, f"{view.caption} {doc[subject.end].text}"),), frozenset([subject.end])
    index = len(doc) - 1
    while index and doc[index].is_punct:
        index -= 1
    comma = "" if view.caption.split()[0] in ("in", "at", "with") else ","
    return ((index, index + 1, f"{doc[index].text}{comma} {view.caption}"),), frozenset([index])

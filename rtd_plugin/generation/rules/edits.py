"""The edits that a caption allows, and the triplets made from them."""

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from rtd_plugin.generation.rules import additions, exchanges
from rtd_plugin.generation.rules.conditions import write_condition
from rtd_plugin.generation.rules.lexicon import Lexicon
from rtd_plugin.generation.rules.phrases import find_noun_phrases
from rtd_plugin.generation.rules.scene import Edit, Scene, is_sound, render
from rtd_plugin.triplets.checks import find_problems
from rtd_plugin.triplets.triplet import Triplet

if TYPE_CHECKING:
    from spacy.tokens import Doc

FINDERS: tuple[Callable[[Scene], Iterator[Edit]], ...] = (
    exchanges.exchange_nouns,
    exchanges.exchange_attributes,
    exchanges.exchange_numbers,
    exchanges.change_between_one_and_several,
    exchanges.exchange_places,
    exchanges.exchange_actions,
    additions.remove_or_add_things,
    additions.add_attributes,
    additions.add_places,
)
# How often each kind is tried; conditions in CIRR mostly ask for other things and other attributes.
WEIGHTS = {
    "noun": 30, "attribute": 16, "describe": 10, "number": 10, "place": 12, "locate": 7, "action": 8, "remove": 12,
    "add": 8,
}  # fmt: skip
MAX_OF_A_KIND = 3  # edits of one caption
TWO_EDITS = 0.45  # the share of triplets that try to combine two edits
MAX_PHRASINGS = 5  # conditions tried for one pair of captions


def find_edits(doc: "Doc", lexicon: Lexicon, rng: random.Random) -> list[Edit]:
    """Return the edits that a caption allows, one or a few of each kind."""
    if not is_sound(doc):
        return []
    phrases = [phrase for phrase in find_noun_phrases(doc) if lexicon.is_sure(phrase.head.lower_, "noun")]
    scene = Scene(doc, phrases, lexicon, rng)
    return [edit for find in FINDERS for edit in find(scene)]


def make_triplets(
    doc: "Doc", lexicon: Lexicon, rng: random.Random, max_triplets: int
) -> list[tuple[Triplet, list[str]]]:
    """Make distinct triplets from one parsed caption.

    Returns:
        Each triplet with the kinds of its edits.
    """
    by_kind: dict[str, list[Edit]] = {}
    for edit in find_edits(doc, lexicon, rng):
        by_kind.setdefault(edit.kind, []).append(edit)
    triplets: dict[tuple[str, str], tuple[Triplet, list[str]]] = {}
    by_kind = {kind: rng.sample(edits, min(len(edits), MAX_OF_A_KIND)) for kind, edits in by_kind.items()}
    while by_kind and len(triplets) < max_triplets:
        kinds = sorted(by_kind)
        kind = rng.choices(kinds, [WEIGHTS[kind] for kind in kinds])[0]
        edit = by_kind[kind].pop(rng.randrange(len(by_kind[kind])))
        if not by_kind[kind]:
            del by_kind[kind]
        edits = [edit]
        if rng.random() < TWO_EDITS:
            compatible = [other for other in chain.from_iterable(by_kind.values()) if not other.anchors & edit.anchors]
            edits += [rng.choice(compatible)] if compatible else []
        triplet = _make_triplet(doc, edits, rng)
        if triplet is not None:
            triplets.setdefault((triplet.target, triplet.reference), (triplet, [edit.kind for edit in edits]))
    return list(triplets.values())


def _make_triplet(doc: "Doc", edits: Sequence[Edit], rng: random.Random) -> Triplet | None:
    """Make a triplet that differs by some edits; None if it has a problem however its condition is phrased."""
    reference = render(doc, [change for edit in edits for change in edit.reference])
    target = render(doc, [change for edit in edits for change in edit.target])
    for _ in range(MAX_PHRASINGS):  # another phrasing may avoid, say, repeating the target
        triplet = Triplet(reference, write_condition(edits, rng), target)
        if not find_problems(triplet):
            return triplet
    return None

"""The edits that a caption allows, and the triplets made from them."""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from rtd_plugin.generation.rules import additions, exchanges
from rtd_plugin.generation.rules.conditions import write_condition
from rtd_plugin.generation.rules.fragments import lower_title
from rtd_plugin.generation.rules.lexicon import Lexicon
from rtd_plugin.generation.rules.phrases import find_noun_phrases
from rtd_plugin.generation.rules.scene import Edit, Scene, is_sound, render
from rtd_plugin.triplets.checks import find_problems
from rtd_plugin.triplets.triplet import Triplet

if TYPE_CHECKING:
    from spacy.tokens import Doc

FINDERS: tuple[Callable[[Scene], Iterator[Edit]], ...] = (
    exchanges.exchange_nouns,
    exchanges.exchange_kinds,
    exchanges.exchange_attributes,
    exchanges.exchange_numbers,
    exchanges.change_between_one_and_several,
    exchanges.exchange_places,
    exchanges.exchange_actions,
    additions.remove_or_add_things,
    additions.deny_or_affirm,
    additions.add_attributes,
    additions.describe_parts,
    additions.add_places,
)
MAX_OF_A_KIND = 3  # edits of one caption
TWO_EDITS = 0.45  # the share of triplets that try to combine two edits
MAX_PHRASINGS = 5  # conditions tried for one pair of captions


class Candidate(NamedTuple):
    """A triplet that a caption allows.

    Attributes:
        triplet: the triplet.
        labels: of its edits, see `Edit.label`.
        details: of its edits.
    """

    triplet: Triplet
    labels: list[str]
    details: list[str]


def find_edits(
    doc: "Doc", lexicon: Lexicon, rng: random.Random, partners: Counter[tuple[str, bool]] | None = None
) -> list[Edit]:
    """Return the edits that a caption allows, one or a few of each kind; count nouns as `Scene.partners` does."""
    if not is_sound(doc):
        return []
    phrases = [
        phrase
        for phrase in find_noun_phrases(doc)
        if lexicon.is_sure(phrase.head.lower_, "noun") and not lexicon.is_part_of_names(lower_title(phrase.head.text))
    ]
    scene = Scene(doc, phrases, lexicon, rng, Counter() if partners is None else partners)
    return [edit for find in FINDERS for edit in find(scene)]


def make_candidates(
    doc: "Doc", lexicon: Lexicon, rng: random.Random, count: int, partners: Counter[tuple[str, bool]] | None = None
) -> list[Candidate]:
    """Make distinct triplets from one parsed caption, its kinds of edit in turn.

    Args:
        count: of triplets, at most.
        partners: as in `find_edits`.
    """
    by_label: dict[str, list[Edit]] = {}
    for edit in find_edits(doc, lexicon, rng, partners):
        by_label.setdefault(edit.label, []).append(edit)
    by_label = {label: rng.sample(edits, min(len(edits), MAX_OF_A_KIND)) for label, edits in by_label.items()}
    candidates: dict[tuple[str, str], Candidate] = {}
    while by_label and len(candidates) < count:
        for label in sorted(by_label):
            edits = [by_label[label].pop()]
            if rng.random() < TWO_EDITS:
                further = chain.from_iterable(by_label.values())
                compatible = [edit for edit in further if not edit.anchors & edits[0].anchors]
                edits += [rng.choice(compatible)] if compatible else []
            triplet = _make_triplet(doc, edits, rng)
            if triplet is not None:
                candidate = Candidate(triplet, [edit.label for edit in edits], [edit.detail for edit in edits])
                candidates.setdefault((triplet.target, triplet.reference), candidate)
        by_label = {label: edits for label, edits in by_label.items() if edits}
    return list(candidates.values())[:count]


def _make_triplet(doc: "Doc", edits: Sequence[Edit], rng: random.Random) -> Triplet | None:
    """Make a triplet that differs by some edits; None if it has a problem with every phrasing tried."""
    reference = render(doc, [change for edit in edits for change in edit.reference])
    target = render(doc, [change for edit in edits for change in edit.target])
    for _ in range(MAX_PHRASINGS):  # another phrasing may avoid, say, repeating the target
        triplet = Triplet(reference, write_condition(edits, rng), target)
        if not find_problems(triplet):
            return triplet
    return None

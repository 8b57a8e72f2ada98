"""The edits that a caption allows, and the triplets made from them."""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from rtd_plugin.generation.rules import activity_exchange, additions, exchanges, views
from rtd_plugin.generation.rules.fragments import lower_title
from rtd_plugin.generation.rules.lexicon import Lexicon
from rtd_plugin.generation.rules.phrases import find_noun_phrases
from rtd_plugin.generation.rules.scene import Edit, Scene, is_sound, render
from rtd_plugin.phrasing.conditions import can_phrase, write_condition
from rtd_plugin.phrasing.registers import REGISTERS, Register
from rtd_plugin.phrasing.slips import misspell
from rtd_plugin.triplets.checks import find_problems
from rtd_plugin.triplets.triplet import Triplet
from rtd_plugin.triplets.wording import Order, find_order, list_changed_words

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
    activity_exchange.exchange_activities,
    views.change_views,
    views.change_poses,
)
MAX_OF_A_KIND = 3  # edits of one caption
TWO_EDITS = 0.65  # the share of triplets that try to combine two edits
THREE_EDITS = 0.2  # of those, the share that try a third
WORDINGS = 16  # written for one pair of captions; the balance of a build chooses among them


class Candidate(NamedTuple):
    """A pair of captions that a caption allows, with conditions to choose from.

    Attributes:
        reference, target: the captions.
        wordings: conditions, each with its order as `triplets.wording.find_order` gives it.
        register: the index of their register.
        labels: of its edits, see `Edit.label`.
        details: of its edits.
    """

    reference: str
    target: str
    wordings: list[tuple[str, Order]]
    register: int
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
    return [edit for find in FINDERS for edit in find(scene) if can_phrase(edit)]


def make_candidates(
    doc: "Doc",
    lexicon: Lexicon,
    rng: random.Random,
    count: int,
    partners: Counter[tuple[str, bool]] | None = None,
    register: str = "mixed",
) -> list[Candidate]:
    """Make distinct triplets from one parsed caption, its kinds of edit in turn.

    Args:
        count: of triplets, at most.
        register: of their conditions, a key of `REGISTERS`.
        partners: as in `find_edits`.
    """
    by_label: dict[str, list[Edit]] = {}
    for edit in find_edits(doc, lexicon, rng, partners):
        by_label.setdefault(edit.label, []).append(edit)
    by_label = {label: rng.sample(edits, min(len(edits), MAX_OF_A_KIND)) for label, edits in by_label.items()}
    registers = REGISTERS[register]
    candidates: dict[tuple[str, str], Candidate] = {}
    while by_label and len(candidates) < count:
        for label in sorted(by_label):
            edits = [by_label[label].pop()]
            if rng.random() < TWO_EDITS:
                further = chain.from_iterable(by_label.values())
                compatible = [edit for edit in further if edit.goes_with(edits[0])]
                edits += [rng.choice(compatible)] if compatible else []
                if compatible and rng.random() < THREE_EDITS:
                    compatible = [edit for edit in compatible if edit.goes_with(edits[1])]
                    edits += [rng.choice(compatible)] if compatible else []
            (index,) = rng.choices(range(len(registers)), [share for _, share in registers])
            candidate = _make_candidate(doc, edits, rng, index, registers[index][0])
            if candidate is not None:
                candidates.setdefault((candidate.target, candidate.reference), candidate)
        by_label = {label: edits for label, edits in by_label.items() if edits}
    return list(candidates.values())[:count]


def _make_candidate(
    doc: "Doc", edits: Sequence[Edit], rng: random.Random, index: int, register: Register
) -> Candidate | None:
    """Make a triplet that differs by some edits; None if it has a problem with every wording tried."""
    reference = render(doc, [change for edit in edits for change in edit.reference])
    target = render(doc, [change for edit in edits for change in edit.target])
    wordings: dict[str, Order] = {}
    for _ in range(WORDINGS):
        triplet = Triplet(reference, write_condition(edits, rng, register), target)
        if triplet.condition in wordings or find_problems(triplet):
            continue
        order = find_order(triplet)
        if rng.random() < register.misspelt:
            triplet = triplet._replace(
                condition=misspell(triplet.condition, rng, set().union(*list_changed_words(triplet)))
            )
        wordings[triplet.condition] = order
    if not wordings:
        return None
    labels, details = [edit.label for edit in edits], [edit.detail for edit in edits]
    return Candidate(reference, target, list(wordings.items()), index, labels, details)

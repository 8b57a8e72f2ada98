"""All edits that a caption allows."""

import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rtd_plugin.generation.rules import additions, exchanges
from rtd_plugin.generation.rules.lexicon import Lexicon
from rtd_plugin.generation.rules.phrases import noun_phrases
from rtd_plugin.generation.rules.scene import Edit, Scene, is_sound

if TYPE_CHECKING:
    from spacy.tokens import Doc

FINDERS: tuple[Callable[[Scene], Iterator[Edit]], ...] = (
    exchanges.exchanged_nouns,
    exchanges.exchanged_attributes,
    exchanges.exchanged_numbers,
    exchanges.multiplied,
    exchanges.exchanged_places,
    exchanges.exchanged_actions,
    additions.removals,
    additions.added_attributes,
    additions.added_places,
)


def edits(doc: "Doc", lexicon: Lexicon, rng: random.Random) -> list[Edit]:
    """All kinds of edits that a caption allows, one or a few of each."""
    if not is_sound(doc):
        return []
    phrases = [phrase for phrase in noun_phrases(doc) if lexicon.is_sure(phrase.head.lower_, "noun")]
    scene = Scene(doc, phrases, lexicon, rng)
    return [edit for find in FINDERS for edit in find(scene)]

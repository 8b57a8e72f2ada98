"""Edits that remove or add things, or add attributes or places that the reference omits."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rtd_plugin.generation.rules.attributes import Attribute, find_attributes, list_kinds
from rtd_plugin.generation.rules.exchanges import anchor_attribute, describe_attribute, describe_place
from rtd_plugin.generation.rules.fragments import lower_title
from rtd_plugin.generation.rules.phrases import HAVING, NounPhrase, find_place, find_subject
from rtd_plugin.generation.rules.scene import (
    LOCATIVE,
    NEEDS_PLACE,
    UNCLEAR,
    Edit,
    Scene,
    add_article,
    describe_subject,
    mention_subject,
    token_span,
)
from rtd_plugin.generation.rules.word_classes import ATTRIBUTES, PEOPLE

if TYPE_CHECKING:
    from spacy.tokens import Token


def remove_or_add_things(scene: Scene) -> Iterator[Edit]:
    """Yield two edits for each thing that can go: to remove it, and to add it to a reference without it."""
    for phrase in scene.phrases:
        removal = _find_removal(scene, phrase)
        if removal is None or not scene.is_unique(phrase) or phrase.is_part or phrase.is_negated:
            continue
        start, end, link, owner = removal
        doc = scene.doc
        if len(doc) - (end - start) < 4 or (start and doc[start - 1].text == ","):
            continue
        if end < len(doc) and doc[end].dep_ == "cc":  # the next word depends on the words to remove
            continue
        if link not in ("with", "and") and owner.noun not in PEOPLE:
            continue
        if link == "and" and _is_had(owner):  # what is named beside a thing is not added to it, but to what has both
            haver = _find_haver(scene, owner)
            if haver is None:
                continue
            link, owner = "with", haver
        fields = {
            "bare": phrase.core,
            "the_thing": f"the {phrase.core}",
            "a_thing": scene.to_indefinite(phrase),
            "is": "are" if phrase.plural else "is",
            "subject_is": "are" if owner.plural else "is",
            "subject_has": "have" if owner.plural else "has",
            **describe_subject(scene, owner),
        }
        fields[link] = ""
        if link in ("wearing", "holding", "carrying"):
            fields["verb"], fields["using"] = link, ""
        anchors = frozenset(range(start, end))
        deletion = ((start, end, ""),)
        for kind, reference, target in (("remove", (), deletion), ("add", deletion, ())):
            named, mentions = mention_subject(scene, fields, owner)
            yield Edit(kind, named, anchors, reference, target, mentions=mentions)


def _is_had(owner: NounPhrase) -> bool:
    """Return whether another thing has the owner."""
    above = owner.head.head
    return above.lower_ == "with" or above.lemma_.lower() in HAVING


def _find_haver(scene: Scene, thing: NounPhrase) -> NounPhrase | None:
    """Return the phrase of what has a thing."""
    above = thing.head.head
    haver = scene.find_phrase(above.head if above.lower_ == "with" else find_subject(above))
    return haver if haver is not None and scene.is_unique(haver) else None


def _find_removal(scene: Scene, phrase: NounPhrase) -> tuple[int, int, str, NounPhrase] | None:
    """Return the range of tokens to remove with a thing, its link ("wearing", "with", "and"), and its owner."""
    head, above = phrase.head, phrase.head.head
    if list(head.rights) or phrase.determiner in ("no", "each", "every", "another", "other", "this", "that"):
        return None
    if head.dep_ == "dobj" and above.dep_ == "acl" and above.lower_ in ("wearing", "holding", "carrying"):
        if list(above.subtree) == list(scene.doc[above.i : phrase.end]) and phrase.start == above.i + 1:
            return _with_owner(scene, above.i, phrase.end, above.lower_, above.head)
    elif head.dep_ == "pobj" and above.lower_ == "with" and above.dep_ == "prep" and above.head.tag_ in ("NN", "NNS"):
        if phrase.start == above.i + 1:
            return _with_owner(scene, above.i, phrase.end, "with", above.head)
    elif head.dep_ == "conj" and above.dep_ in ("dobj", "pobj") and above.tag_ in ("NN", "NNS"):
        links = [token for token in above.rights if token.dep_ == "cc"]
        if (
            len(links) == 1
            and links[0].lower_ == "and"
            and phrase.start == links[0].i + 1
            and above.i == links[0].i - 1
        ):
            return _with_owner(scene, links[0].i, phrase.end, "and", above)
    return None


def _with_owner(
    scene: Scene, start: int, end: int, link: str, owner: "Token"
) -> tuple[int, int, str, NounPhrase] | None:
    phrase = scene.find_phrase(owner)
    return (start, end, link, phrase) if phrase is not None and scene.is_unique(phrase) else None


def add_attributes(scene: Scene) -> Iterator[Edit]:
    """Yield edits that add a colour, a size, … that the reference omits."""
    for phrase in scene.phrases:
        if not scene.is_unique(phrase) or phrase.is_negated:
            continue
        for attribute in find_attributes(phrase):
            kinds = list_kinds(attribute)
            kind = "measure" if attribute.measure else min(kinds, default="")
            if not kind or attribute.is_predicate or (kind == "colour" and phrase.noun in PEOPLE):
                continue
            if phrase.is_part and phrase.determiner in ("a", "") and attribute.words == _list_modifiers(phrase):
                continue  # nothing else is said of the part
            fields = _omit_old(describe_attribute(scene, phrase, attribute, attribute.words, kind, ""))
            removal = (*attribute.removal, "")
            fields, anchors, mentions = anchor_attribute(scene, phrase, attribute, fields)
            anchors |= frozenset(range(*attribute.removal))
            yield Edit("describe", fields, anchors, reference=(removal,), detail=kind, mentions=mentions)


def _is_quality(token: "Token") -> bool:
    """Return whether a word describes a thing that is there: "small" in "a small effusion"."""
    return token.lower_ in ATTRIBUTES or token.lower_ in UNCLEAR


def _list_modifiers(phrase: NounPhrase) -> str:
    return lower_title(phrase.head.doc[phrase.first : phrase.head.i].text)


def _omit_old(fields: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in fields.items() if name not in ("old_value", "a_old", "the_old", "old")}


def describe_parts(scene: Scene) -> Iterator[Edit]:
    """Yield edits that describe a part such as "black wings", which the reference does not mention."""
    for phrase in scene.phrases:
        removal = _find_removal(scene, phrase) if phrase.is_part and scene.is_unique(phrase) else None
        if removal is None or phrase.first == phrase.head.i or phrase.is_negated:
            continue
        start, end, link, _ = removal
        doc = scene.doc
        if link not in ("with", "and") or len(doc) - (end - start) < 4 or (end < len(doc) and doc[end].dep_ == "cc"):
            continue
        words = _list_modifiers(phrase)
        attribute = Attribute(phrase.first, phrase.head.i, words, phrase.head.lower_, (start, end))
        kinds = list_kinds(attribute)
        fields = _omit_old(describe_attribute(scene, phrase, attribute, words, min(kinds, default=""), ""))
        yield Edit("describe", fields, frozenset(range(start, end)), reference=((start, end, ""),), detail="part")


def deny_or_affirm(scene: Scene) -> Iterator[Edit]:
    """Yield edits between a thing and "no" such thing, where the captions say that there is none."""
    for phrase in scene.phrases:
        above = phrase.head.head
        is_object = phrase.head.dep_ in ("dobj", "attr") and above.lemma_.lower() in (HAVING | {"be"})
        is_held = phrase.head.dep_ == "pobj" and above.lower_ == "with"
        alone = not any(token.dep_ in ("cc", "conj") for token in phrase.head.rights)
        if not (is_object or is_held) or not alone or not scene.is_unique(phrase) or phrase.is_part:
            continue
        fields = {
            "bare": phrase.core,
            "the_thing": f"the {phrase.core}",
            "is": "are" if phrase.plural else "is",
        }
        if phrase.is_negated and phrase.determiner == "no":
            is_mass = phrase.plural or scene.lexicon.is_mass(phrase.term)
            if not is_mass and not scene.lexicon.may_take_article(phrase.term):
                continue
            thing = phrase.core if is_mass else add_article(phrase.core)
            change = ((phrase.start, phrase.end, thing),)
        elif not phrase.is_negated and phrase.determiner in ("a", "") and scene.lexicon.is_denied(phrase.term):
            thing = scene.to_indefinite(phrase)
            words = [token.text for token in phrase.head.doc[phrase.first : phrase.end] if not _is_quality(token)]
            change = ((phrase.start, phrase.end, f"no {lower_title(' '.join(words))}"),)
        else:
            continue
        fields["a_thing"] = thing
        there, gone = ((), change) if not phrase.is_negated else (change, ())
        yield Edit("remove", fields, token_span(phrase), reference=there, target=gone)
        yield Edit("add", fields, token_span(phrase), reference=gone, target=there)


def add_places(scene: Scene) -> Iterator[Edit]:
    """Yield edits that add a place that the reference omits."""
    for token in scene.doc:
        place = find_place(token) if token.dep_ == "prep" and token.head.pos_ == "VERB" else None
        if place is None or place.determiner == "poss" or token.lower_ not in LOCATIVE or list(place.head.rights):
            continue
        subject = scene.find_phrase(find_subject(token.head))
        if subject is None or not scene.is_unique(subject) or subject.is_part:
            continue
        if token.head.lemma_.lower() in NEEDS_PLACE:
            continue
        if len(scene.doc) - (place.end - token.i) < 4:
            continue
        if scene.doc[token.i - 1].dep_ in ("prt", "prep", "advmod"):
            continue
        fields = describe_place(scene, token.head, subject, scene.doc[token.i : place.end].text.lower())
        if "new_path" in fields and "verb" not in fields:
            continue
        fields, mentions = mention_subject(scene, fields, subject)
        yield Edit(
            "locate",
            fields,
            token_span(place) | {token.i},
            reference=((token.i, place.end, ""),),
            mentions=mentions | {token.head.i},
        )

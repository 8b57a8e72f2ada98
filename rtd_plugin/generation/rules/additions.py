"""Edits that remove or add things, or add attributes or places that the reference omits."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rtd_plugin.generation.rules.exchanges import describe_attribute, describe_place
from rtd_plugin.generation.rules.phrases import NounPhrase, find_attributes, find_place, find_subject
from rtd_plugin.generation.rules.scene import LOCATIVE, NEEDS_PLACE, Edit, Scene, describe_subject, token_span
from rtd_plugin.generation.rules.word_classes import ATTRIBUTES, FIXED, PEOPLE

if TYPE_CHECKING:
    from spacy.tokens import Token


def remove_or_add_things(scene: Scene) -> Iterator[Edit]:
    """Yield two edits for each thing that can go: to remove it, and to add it to a reference without it."""
    for phrase in scene.phrases:
        removal = _find_removal(scene, phrase)
        if removal is None or not scene.is_unique(phrase) or phrase.noun in FIXED:
            continue
        start, end, link, owner = removal
        doc = scene.doc
        if len(doc) - (end - start) < 4 or (start and doc[start - 1].text == ","):
            continue
        if end < len(doc) and doc[end].dep_ == "cc":  # the next word depends on the words to remove
            continue
        if link not in ("with", "and") and owner.noun not in PEOPLE:
            continue
        fields = {
            "bare": phrase.core,
            "the_thing": f"the {phrase.core}",
            "a_thing": scene.to_indefinite(phrase),
            "is": "are" if phrase.plural else "is",
            "subject_is": "are" if owner.plural else "is",
            "subject_has": "have" if owner.plural else "has",
            link: "",
            **describe_subject(scene, owner),
        }
        if link in ("wearing", "holding", "carrying"):
            fields["verb"], fields["using"] = link, ""
        anchors = frozenset(range(start, end)) | token_span(owner)
        deletion = ((start, end, ""),)
        yield Edit("remove", fields, anchors, target=deletion)
        yield Edit("add", fields, anchors, reference=deletion)


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
        if not scene.is_unique(phrase):
            continue
        for attribute in find_attributes(phrase):
            if attribute.last.lower_ not in ATTRIBUTES:
                continue
            kind = ATTRIBUTES[attribute.last.lower_][0][0]
            if kind == "colour" and phrase.noun in PEOPLE:
                continue
            fields = describe_attribute(scene, phrase, attribute.last, "", attribute.words, kind)
            for name in ("old_value", "a_old", "the_old", "old"):
                del fields[name]
            removal = ((attribute.start, attribute.last.i + 1, ""),)
            yield Edit("describe", fields, token_span(phrase), reference=removal, detail=kind)


def add_places(scene: Scene) -> Iterator[Edit]:
    """Yield edits that add a place that the reference omits."""
    for token in scene.doc:
        place = find_place(token) if token.dep_ == "prep" and token.head.pos_ == "VERB" else None
        if place is None or place.determiner == "poss" or token.lower_ not in LOCATIVE or list(place.head.rights):
            continue
        subject = scene.find_phrase(find_subject(token.head))
        if subject is None or not scene.is_unique(subject) or subject.noun in FIXED:
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
        yield Edit(
            "locate", fields, token_span(place) | token_span(subject) | {token.i}, reference=((token.i, place.end, ""),)
        )

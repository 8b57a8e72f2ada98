"""Things taken away or added, and what is told of things that were there already."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rtd_plugin.generation.rules import words as table
from rtd_plugin.generation.rules.exchanges import located, valued
from rtd_plugin.generation.rules.phrases import NounPhrase, place_of, subject_of
from rtd_plugin.generation.rules.scene import LOCATIVE, NEEDS_PLACE, Edit, Scene, span

if TYPE_CHECKING:
    from spacy.tokens import Token


def removals(scene: Scene) -> Iterator[Edit]:
    """A thing less, or one more: the caption is the reference or the target."""
    for phrase in scene.phrases:
        found = _removable(scene, phrase)
        if found is None or not scene.is_unique(phrase) or phrase.noun in table.FIXED:
            continue
        start, end, how, owner = found
        doc = scene.doc
        if len(doc) - (end - start) < 4 or (start and doc[start - 1].text == ","):
            continue
        if end < len(doc) and doc[end].dep_ == "cc":  # what follows belongs to what would go
            continue
        if how not in ("with", "and") and owner.noun not in table.PEOPLE:
            continue
        fields = {
            "bare": phrase.core,
            "the_thing": f"the {phrase.core}",
            "a_thing": scene.indefinite(phrase),
            "is": "are" if phrase.plural else "is",
            "the_subject": f"the {owner.head.lower_}",
            "subject_is": "are" if owner.plural else "is",
            "subject_has": "have" if owner.plural else "has",
            how: "",
        }
        if scene.is_main(owner):
            fields["main"] = ""
            if not owner.plural:
                fields["sole"] = ""
        if how in ("wearing", "holding", "carrying"):
            fields["verb"], fields["using"] = how, ""
        anchors = frozenset(range(start, end)) | span(owner)
        cut = ((start, end, ""),)
        yield Edit("remove", fields, anchors, target=cut)
        yield Edit("add", fields, anchors, reference=cut)


def _removable(scene: Scene, phrase: NounPhrase) -> tuple[int, int, str, NounPhrase] | None:
    """The tokens that go when a thing goes, how it is there ("wearing", "with", "and"), and whose it is."""
    head, above = phrase.head, phrase.head.head
    if list(head.rights) or phrase.determiner in ("no", "each", "every", "another", "other", "this", "that"):
        return None
    if head.dep_ == "dobj" and above.dep_ == "acl" and above.lower_ in ("wearing", "holding", "carrying"):
        if list(above.subtree) == list(scene.doc[above.i : phrase.end]) and phrase.start == above.i + 1:
            return _owned(scene, above.i, phrase.end, above.lower_, above.head)
    elif head.dep_ == "pobj" and above.lower_ == "with" and above.dep_ == "prep" and above.head.tag_ in ("NN", "NNS"):
        if phrase.start == above.i + 1:
            return _owned(scene, above.i, phrase.end, "with", above.head)
    elif head.dep_ == "conj" and above.dep_ in ("dobj", "pobj") and above.tag_ in ("NN", "NNS"):
        links = [token for token in above.rights if token.dep_ == "cc"]
        if (
            len(links) == 1
            and links[0].lower_ == "and"
            and phrase.start == links[0].i + 1
            and above.i == links[0].i - 1
        ):
            return _owned(scene, links[0].i, phrase.end, "and", above)
    return None


def _owned(scene: Scene, start: int, end: int, how: str, owner: "Token") -> tuple[int, int, str, NounPhrase] | None:
    phrase = scene.phrase_of(owner)
    return (start, end, how, phrase) if phrase is not None and scene.is_unique(phrase) else None


def added_attributes(scene: Scene) -> Iterator[Edit]:
    """A colour, size … that the reference does not tell."""
    for phrase in scene.phrases:
        if not scene.is_unique(phrase):
            continue
        for token in phrase.head.lefts:
            if token.dep_ != "amod" or list(token.children) or token.lower_ not in table.ATTRIBUTES:
                continue
            kind = table.ATTRIBUTES[token.lower_][0][0]
            if kind == "colour" and phrase.noun in table.PEOPLE:
                continue
            fields = valued(scene, phrase, token, "", token.lower_, kind)
            for name in ("old_value", "a_old", "the_old", "old"):
                del fields[name]
            yield Edit("describe", fields, span(phrase), reference=((token.i, token.i + 1, ""),))


def added_places(scene: Scene) -> Iterator[Edit]:
    """A place that the reference does not tell."""
    for token in scene.doc:
        place = place_of(token) if token.dep_ == "prep" and token.head.pos_ == "VERB" else None
        if place is None or place.determiner == "poss" or token.lower_ not in LOCATIVE or list(place.head.rights):
            continue
        subject = scene.phrase_of(subject_of(token.head))
        if subject is None or not scene.is_unique(subject) or subject.noun in table.FIXED:
            continue
        if token.head.lemma_.lower() in NEEDS_PLACE:
            continue
        if len(scene.doc) - (place.end - token.i) < 4:
            continue
        if scene.doc[token.i - 1].dep_ in ("prt", "prep", "advmod"):
            continue
        fields = located(scene, token.head, subject, scene.doc[token.i : place.end].text.lower())
        if "new_path" in fields and "verb" not in fields:
            continue
        yield Edit("locate", fields, span(place) | span(subject) | {token.i}, reference=((token.i, place.end, ""),))

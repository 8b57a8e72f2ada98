"""One thing, look, number, place or action for another."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rtd_plugin.generation.rules import words as table
from rtd_plugin.generation.rules.phrases import NounPhrase, complements, contexts, followers, place_of, subject_of
from rtd_plugin.generation.rules.scene import (
    KEPT_DETERMINERS,
    LOCATIVE,
    NEEDS_PLACE,
    OWN,
    PAIRED,
    PRONOUNS,
    STATIC,
    UNCLEAR,
    Change,
    Edit,
    Scene,
    plural_of,
    setting,
    some,
    span,
    with_article,
)

if TYPE_CHECKING:
    from spacy.tokens import Token

_SWAPPED = {"he": "she", "him": "her", "his": "her", "himself": "herself", "she": "he", "herself": "himself"}


def exchanged_nouns(scene: Scene) -> Iterator[Edit]:
    """One thing for another."""
    for phrase in scene.phrases:
        if phrase.noun in table.FIXED or not scene.is_unique(phrase) or phrase.determiner not in KEPT_DETERMINERS:
            continue
        if phrase.determiner == "" and not phrase.plural and not scene.lexicon.takes_no_article(phrase.term):
            continue
        cores = scene.lexicon.substitutes(phrase, contexts(phrase.head))
        taken = {token.lemma_.lower() for token in scene.doc}
        cores = [core for core in cores if core.split()[-1] not in taken and not set(core.split()) & UNCLEAR]
        for core in some(cores, scene.rng, 2):
            pronouns = _pronoun_changes(scene, phrase, core)
            if pronouns is None:
                continue
            changes = ((phrase.first, phrase.end, core), *pronouns)
            fields = _things(scene, phrase, phrase.core, core)
            yield Edit("noun", fields, span(phrase), target=changes)


def _pronoun_changes(scene: Scene, phrase: NounPhrase, core: str) -> tuple[Change, ...] | None:
    """Changes of pronouns that a new noun asks for; None if it cannot be told which are its own."""
    pronouns = [token for token in scene.doc if token.tag_ in ("PRP", "PRP$") and token.lower_ in PRONOUNS]
    if not pronouns:
        return ()
    new, old = _sex(core.split()[-1]), _sex(phrase.noun)
    subject = ("nsubj", "ROOT", "attr", "nsubjpass")
    if phrase.head.dep_ not in subject:
        # The pronouns are the subject's, if there is one: what is done to other things does not concern them.
        has_subject = any(token.dep_ in subject and token.tag_ == "NN" for token in scene.doc)
        return () if has_subject and old == new else None
    if new == old and (old or (phrase.noun not in table.PEOPLE and core.split()[-1] not in table.PEOPLE)):
        return ()
    people = [p for p in scene.phrases if p.noun in table.PEOPLE]
    if not (old and new) or len(people) != 1 or phrase.plural:
        return None
    if any(token.lower_ not in ("he", "him", "his", "himself", "she", "herself", "her") for token in pronouns):
        return None
    changes = []
    for token in pronouns:
        if token.lower_ == "her":
            changes.append((token.i, token.i + 1, "his" if token.tag_ == "PRP$" else "him"))
        else:
            changes.append((token.i, token.i + 1, _SWAPPED[token.lower_]))
    return tuple(changes)


def _sex(noun: str) -> str:
    return "male" if noun in table.MALE else "female" if noun in table.FEMALE else ""


def _things(scene: Scene, phrase: NounPhrase, old: str, new: str) -> dict[str, str]:
    """What can be said about one thing in another's place."""
    plural = phrase.plural
    fields = {
        "old": old,
        "new": new,
        "a_old": scene.indefinite(phrase, old),
        "a_new": scene.indefinite(phrase, new),
        "the_old": f"the {old}",
        "the_new": f"the {new}",
        "is": "are" if plural else "is",
        "is_old": "are" if plural else "is",
    }
    return fields | setting(scene, phrase, fields["a_new"], fields["a_old"])


def exchanged_attributes(scene: Scene) -> Iterator[Edit]:
    """Another colour, size, material …"""
    for phrase in scene.phrases:
        if not scene.is_unique(phrase):
            continue
        for token in phrase.head.lefts:
            if token.dep_ != "amod" or list(token.children):
                continue
            values = [
                (value, kind)
                for value in scene.lexicon.values(token.lower_, phrase.noun)
                for kind in [table.other_values(token.lower_)[value]]
                if not (kind == "colour" and phrase.noun in table.PEOPLE) and value not in phrase.core
            ]
            for value, kind in some(values, scene.rng, 2):
                yield Edit(
                    "attribute",
                    valued(scene, phrase, token, token.lower_, value, kind),
                    span(phrase),
                    target=((token.i, token.i + 1, value),),
                )


def valued(scene: Scene, phrase: NounPhrase, token: "Token", old: str, new: str, kind: str) -> dict[str, str]:
    noun = " ".join(t.lower_ for t in scene.doc[token.i + 1 : phrase.end])
    fields = {
        "kind": kind,
        "old_value": old,
        "new_value": new,
        "noun": noun,
        "the_noun": f"the {noun}",
        "the_old": f"the {old} {noun}",
        "a_new": scene.indefinite(phrase, f"{new} {noun}"),
        "a_old": scene.indefinite(phrase, f"{old} {noun}"),
        "new": f"{new} {noun}",
        "old": f"{old} {noun}",
        "is": "are" if phrase.plural else "is",
        "a_new_one": f"{new} ones" if phrase.plural else with_article(f"{new} one"),
    }
    if kind in ("colour", "size", "pattern", "brightness", "fit", "length", "material", "state", "age", "height"):
        fields["predicative"] = ""
    if kind == "colour":
        fields["colour"] = ""
    if new in table.COMPARATIVES and kind in ("size", "height", "age", "length", "brightness", "fit"):
        fields["comparative"] = table.COMPARATIVES[new]
    return fields | setting(scene, phrase, fields["a_new"], fields["a_old"])


def exchanged_numbers(scene: Scene) -> Iterator[Edit]:
    """More or fewer of the same."""
    if any(token.lower_ in PAIRED for token in scene.doc):
        return
    for phrase in scene.phrases:
        token = scene.doc[phrase.start]
        if token.lower_ not in table.NUMBERS[1:] or not phrase.plural or not scene.is_unique(phrase):
            continue
        old = table.NUMBERS.index(token.lower_) + 1
        choices = [number for number in (old - 2, old - 1, old + 1, old + 2) if 2 <= number <= 6]
        for number in some(choices, scene.rng, 2):
            fields = _counted(scene, phrase, old, number, phrase.core, phrase.core)
            yield Edit("number", fields, span(phrase), target=((token.i, token.i + 1, table.NUMBERS[number - 1]),))


def multiplied(scene: Scene) -> Iterator[Edit]:
    """Several instead of one, or one instead of several; verbs agree."""
    if any(token.lower_ in PAIRED or token.lower_ in PRONOUNS for token in scene.doc):
        return
    for phrase in scene.phrases:
        head = phrase.head
        if phrase.determiner != "a" or head.tag_ != "NN" or not scene.is_unique(phrase) or phrase.noun in table.FIXED:
            continue
        if any(token.lemma_.lower() in OWN for token in (head.head, *head.rights)) or followers(head):
            continue
        agreeing = _agreement(head)
        plural = plural_of(head.lower_)
        if agreeing is None or not scene.lexicon.is_sure(plural, "noun") or not scene.lexicon.is_counted(phrase.term):
            continue
        core = " ".join([*phrase.core.split()[:-1], plural])
        number = scene.rng.choice((2, 2, 3, 4))
        word = table.NUMBERS[number - 1]
        changes = ((phrase.start, phrase.end, f"{word} {core}"), *agreeing)
        if scene.rng.random() < 0.5:
            yield Edit("number", _counted(scene, phrase, 1, number, phrase.core, core), span(phrase), target=changes)
        else:
            fields = _counted(scene, phrase, number, 1, core, phrase.core)
            yield Edit("number", fields, span(phrase), reference=changes)


def _agreement(head: "Token") -> tuple[Change, ...] | None:
    """Changes of the verbs that agree with a noun in the singular when it becomes plural; None where it is unclear."""
    if head.dep_ in ("dobj", "pobj"):
        return () if not any(token.dep_ in ("relcl", "conj", "appos") for token in head.rights) else None
    if head.dep_ not in ("nsubj", "ROOT") or any(
        token.dep_ in ("relcl", "conj", "cc", "appos") for token in head.rights
    ):
        return None
    verbs = [] if head.dep_ == "ROOT" else [head.head, *head.head.lefts, *head.head.conjuncts]
    changes = []
    for verb in verbs:
        if verb.tag_ == "VBZ":
            plural = {"is": "are", "has": "have", "does": "do", "'s": None}.get(verb.lower_, verb.lemma_.lower())
            if plural is None or (plural not in ("are", "have") and verb.lower_ not in (f"{plural}s", f"{plural}es")):
                return None
            changes.append((verb.i, verb.i + 1, plural))
        elif verb.tag_ in ("NN", "NNS") and verb != head:
            return None
    return tuple(changes)


def _counted(scene: Scene, phrase: NounPhrase, old: int, new: int, old_core: str, new_core: str) -> dict[str, str]:
    fields = {
        "old_number": table.NUMBERS[old - 1],
        "new_number": table.NUMBERS[new - 1],
        "nouns": old_core if old > 1 else new_core,
        "a_new": f"{table.NUMBERS[new - 1]} {new_core}",
        "a_old": f"{table.NUMBERS[old - 1]} {old_core}",
        "is": "is" if new == 1 else "are",
        "more" if new > old else "fewer": "",
    }
    if old > 1:
        fields["several"] = ""
    if new - old == 1:
        fields["one_more"] = ""
    if old - new == 1:
        fields["one_less"] = ""
    return fields | setting(scene, phrase, fields["a_new"], fields["a_old"])


def exchanged_places(scene: Scene) -> Iterator[Edit]:
    """Somewhere else."""
    for token in scene.doc:
        place = place_of(token) if token.dep_ == "prep" and token.head.pos_ == "VERB" else None
        if place is None or place.determiner == "poss" or place.noun in table.FIXED or token.lower_ not in LOCATIVE:
            continue
        subject = scene.phrase_of(subject_of(token.head))
        if subject is None or not scene.is_unique(subject) or list(place.head.rights) or subject.noun in table.FIXED:
            continue
        if token.head.lemma_.lower() in NEEDS_PLACE:
            continue
        taken = {t.lemma_.lower() for t in scene.doc}
        places = [
            text
            for preposition, text in scene.lexicon.places(token.head.lemma_.lower(), place.noun)
            if text.split()[-1] not in taken and not set(text.split()) & UNCLEAR
        ]
        for text in some(places, scene.rng, 2):
            old = scene.doc[token.i : place.end].text.lower()
            fields = located(scene, token.head, subject, text) | {"old_place": old}
            if "new_path" in fields and "verb" not in fields:
                continue
            anchors = span(place) | span(subject) | {token.i}
            yield Edit("place", fields, anchors, target=((token.i, place.end, text),))
        noun_phrase = scene.doc[place.start : place.end].text
        for preposition in some(scene.lexicon.relations(token.lower_, place.noun), scene.rng, 1):
            fields = located(scene, token.head, subject, f"{preposition} {noun_phrase.lower()}")
            fields["old_place"] = scene.doc[token.i : place.end].text.lower()
            anchors = span(place) | span(subject) | {token.i}
            yield Edit("place", fields, anchors, target=((token.i, token.i + 1, preposition),))


def located(scene: Scene, verb: "Token", subject: NounPhrase, place: str) -> dict[str, str]:
    fields = {
        "new_place" if place.split()[0] in STATIC else "new_path": place,
        "the_subject": f"the {subject.head.lower_}",
        "is": "are" if subject.plural else "is",
    }
    if scene.is_main(subject):
        fields["main"] = ""
        if not subject.plural:
            fields["sole"] = ""
    if verb.tag_ == "VBG" and not any(t.dep_ in ("dobj", "prt", "xcomp", "ccomp") for t in verb.rights):
        fields["verb"] = verb.lower_
    return fields


def exchanged_actions(scene: Scene) -> Iterator[Edit]:
    """The same doing something else."""
    for verb in scene.doc:
        if verb.tag_ != "VBG" or verb.dep_ not in ("ROOT", "acl"):
            continue
        subject = scene.phrase_of(subject_of(verb))
        around = complements(verb)
        if (
            subject is None
            or subject.noun in table.FIXED
            or "?" in around
            or not scene.is_unique(subject)
            or not scene.lexicon.is_sure(verb.lower_, "verb")
        ):
            continue
        actions = scene.lexicon.other_actions(verb.lower_, [f"{subject.noun} <", *around])
        for action in some(actions, scene.rng, 2):
            fields = {
                "old_verb": verb.lower_,
                "new_verb": action,
                "the_subject": f"the {subject.head.lower_}",
                "a_subject": scene.indefinite(subject),
                "is": "are" if subject.plural else "is",
            }
            if scene.is_main(subject):
                fields["main"] = ""
                if not subject.plural:
                    fields["sole"] = ""
            after = next(iter(verb.rights), None)
            if after is not None and after.dep_ == "prep" and after.i == verb.i + 1 and (place := place_of(after)):
                fields["where"] = scene.doc[after.i : place.end].text.lower()
            yield Edit("action", fields, span(subject) | {verb.i}, target=((verb.i, verb.i + 1, action),))

"""Edits that exchange a thing, an attribute, a number, a place or an action for another."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rtd_plugin.generation.rules.attributes import Attribute, find_attributes
from rtd_plugin.generation.rules.comparisons import compare_values
from rtd_plugin.generation.rules.fragments import is_detail, list_details, lower_title
from rtd_plugin.generation.rules.phrases import (
    NounPhrase,
    find_complements,
    find_contexts,
    find_followers,
    find_place,
    find_subject,
)
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
    add_article,
    choose_some,
    describe_role,
    describe_setting,
    describe_subject,
    mention_subject,
    to_participle,
    to_plural,
    to_third_person,
    token_span,
)
from rtd_plugin.generation.rules.word_classes import (
    FEMALE,
    FIXED,
    MALE,
    NUMBERS,
    PEOPLE,
    make_set,
)

if TYPE_CHECKING:
    from spacy.tokens import Token

# Fields of an edit of an attribute that say nothing of what else its caption has.
_OF_VALUES = (
    "kind", "old_value", "new_value", "is", "predicative", "colour", "pattern", "plain", "new_sleeves", "other_sleeves",
    "new_hue", "old_hue", "vivid", "muted", "new_print", "revealing", "comparative", "less_old", "main", "sole",
)  # fmt: skip
SEVERAL = 0.2  # the share of exchanged nouns that become several, where they can
_SWAPPED = {"he": "she", "him": "her", "his": "her", "himself": "herself", "she": "he", "herself": "himself"}


def exchange_nouns(scene: Scene) -> Iterator[Edit]:
    """Yield edits that exchange one thing for another."""
    for phrase in scene.phrases:
        if phrase.is_part or not scene.is_unique(phrase) or phrase.determiner not in KEPT_DETERMINERS:
            continue
        if phrase.is_negated:
            continue
        if any(not is_detail(span.text) for span in list_details(scene.doc)) and phrase.head.dep_ == "ROOT":
            continue  # the details may suit this thing only
        is_article_missing = phrase.determiner == "" and not phrase.plural and not phrase.is_bare
        if is_article_missing and not scene.lexicon.takes_no_article(phrase.term):
            continue
        cores = scene.lexicon.find_substitutes(phrase, find_contexts(phrase.head))
        taken = {token.lemma_.lower() for token in scene.doc}
        cores = [core for core in cores if core.split()[-1] not in taken and not set(core.split()) & UNCLEAR]
        scene.partners[phrase.noun, bool(cores)] += 1
        for core in choose_some(cores, scene.rng, 2):
            pronouns = _change_pronouns(scene, phrase, core)
            if pronouns is None:
                continue
            changes = ((phrase.first, phrase.end, core), *pronouns)
            fields = _describe_exchange(scene, phrase, phrase.core, core)
            anchors = token_span(phrase) | _find_verbs(scene, fields)
            detail = _name_exchange(phrase, core)
            if scene.rng.random() < SEVERAL and (plural := _make_several(scene, phrase, core)) is not None:
                several, verbs = plural
                changes = ((phrase.start, phrase.end, several), *verbs)
                fields = _describe_exchange(scene, phrase, phrase.core, core, several)
                anchors |= frozenset(start for start, _, _ in verbs)
            yield Edit("noun", fields, anchors, target=changes, detail=detail)


def _change_pronouns(scene: Scene, phrase: NounPhrase, core: str) -> tuple[Change, ...] | None:
    """Return the changes of pronouns that a new noun requires; None if it is unclear which refer to it."""
    pronouns = [token for token in scene.doc if token.tag_ in ("PRP", "PRP$") and token.lower_ in PRONOUNS]
    if not pronouns:
        return ()
    new, old = _find_sex(core.split()[-1]), _find_sex(phrase.noun)
    subject = ("nsubj", "ROOT", "attr", "nsubjpass")
    if phrase.head.dep_ not in subject:
        # The pronouns refer to the subject if there is one, so exchanging another noun does not affect them.
        has_subject = any(token.dep_ in subject and token.tag_ == "NN" for token in scene.doc)
        return () if has_subject and old == new else None
    if new == old and (old or (phrase.noun not in PEOPLE and core.split()[-1] not in PEOPLE)):
        return ()
    people = [candidate for candidate in scene.phrases if candidate.noun in PEOPLE]
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


def _name_exchange(phrase: NounPhrase, core: str) -> str:
    """Return what is exchanged: a thing, or the gender or the role of a person."""
    if phrase.noun not in PEOPLE:
        return "thing"
    sexes = {_find_sex(phrase.noun), _find_sex(core.split()[-1])}
    return "gender" if sexes == {"male", "female"} else "role"


def _find_sex(noun: str) -> str:
    return "male" if noun in MALE else "female" if noun in FEMALE else ""


def _describe_exchange(scene: Scene, phrase: NounPhrase, old: str, new: str, several: str = "") -> dict[str, str]:
    """Return the fields for the exchange of one thing for another, or for `several` others."""
    plural = phrase.plural
    fields = {
        "old": old,
        "new": several or new,
        "a_old": scene.to_indefinite(phrase, old),
        "a_new": several or scene.to_indefinite(phrase, new),
        "the_old": f"the {old}",
        "the_new": f"the {several or new}",
        "is": "are" if plural or several else "is",
        "is_old": "are" if plural else "is",
    }
    return fields | describe_setting(scene, phrase, fields["a_new"], fields["a_old"])


def exchange_kinds(scene: Scene) -> Iterator[Edit]:
    """Yield edits that exchange the words that say which kind of a thing it is: "work" for "hiking" boots."""
    for phrase in scene.phrases:
        if not scene.is_unique(phrase) or phrase.is_negated or phrase.noun in PEOPLE:
            continue
        start = phrase.end - len(phrase.term_text.split())
        if lower_title(scene.doc[start : phrase.end].text) != phrase.term_text:
            continue  # attributes are between its words
        taken = {token.lower_ for token in scene.doc}
        noun = phrase.term_text.split()[-1]
        for term in choose_some(scene.lexicon.find_kinds(phrase), scene.rng, 2):
            value = term.rsplit(" ", 1)[0]
            if taken & set(value.split()):
                continue
            old = phrase.term_text.rsplit(" ", 1)[0]
            attribute = Attribute(start, phrase.end - 1, old, noun, (start, phrase.end - 1))
            fields = describe_attribute(scene, phrase, attribute, value, "")
            yield Edit("attribute", fields, token_span(phrase), target=((start, phrase.end - 1, value),), detail="type")


def exchange_attributes(scene: Scene) -> Iterator[Edit]:
    """Yield edits that exchange a colour, size, material, …"""
    for phrase in scene.phrases:
        if not scene.is_unique(phrase) or phrase.is_negated:
            continue
        for attribute in find_attributes(phrase):
            values = [
                (value, kind)
                for value, kind in scene.lexicon.find_values(attribute, phrase.noun).items()
                if not (kind == "colour" and phrase.noun in PEOPLE) and not _has_words(scene.doc.text.lower(), value)
            ]
            for value, kind in choose_some(values, scene.rng, 2):
                fields, anchors, mentions = anchor_attribute(
                    scene, phrase, attribute, describe_attribute(scene, phrase, attribute, value, kind)
                )
                changes = ((attribute.start, attribute.end, value),)
                yield Edit("attribute", fields, anchors, target=changes, detail=kind, mentions=mentions)


def anchor_attribute(
    scene: Scene, phrase: NounPhrase, attribute: Attribute, fields: dict[str, str]
) -> tuple[dict[str, str], frozenset[int], frozenset[int]]:
    """Return the fields, the anchors and the mentions of an edit of an attribute.

    In half of the cases the condition names the noun without its other attributes: another edit can change them.
    """
    own = frozenset(range(attribute.start, attribute.end))
    if "predicative" not in fields or attribute.start >= phrase.end or scene.rng.random() < 0.5:
        return fields, own | token_span(phrase) | _find_verbs(scene, fields), frozenset()
    noun = phrase.head.lower_
    kept = {name: fields[name] for name in _OF_VALUES if name in fields} | {"noun": noun, "the_noun": f"the {noun}"}
    return kept, own, frozenset([phrase.head.i])


def _find_verbs(scene: Scene, fields: dict[str, str]) -> frozenset[int]:
    """Return the verbs that a condition may name as what a thing does."""
    return frozenset(token.i for token in scene.doc if token.tag_ == "VBG") if "doing" in fields else frozenset()


def _has_words(text: str, words: str) -> bool:
    return re.search(rf"\b{re.escape(words)}\b", text) is not None


_PREDICATIVE = frozenset(("variety of colours", "finish", "occasion", "exposure")) | make_set("""
    colour size pattern brightness fit length material state age height measure connection shape thickness width
    direction surface regularity bend
""")


def describe_attribute(
    scene: Scene, phrase: NounPhrase, attribute: Attribute, new: str, kind: str, old: str | None = None
) -> dict[str, str]:
    """Return the fields for the exchange of one attribute for another.

    Args:
        attribute: the attribute in the caption.
        new: the other attribute.
        kind: of the attribute.
        old: the attribute itself, if it is not that in the caption.
    """
    old, noun = attribute.words if old is None else old, attribute.noun
    if attribute.measure and attribute.measure.kind in ("pack", "sheet"):
        article = "" if new.endswith("s") else "a "
        return {"old_value": old, "new_value": new, "a_new": article + new, "a_old": article + old, "is": "is"}
    fields = {
        "kind": kind,
        "old_value": old,
        "new_value": new,
        "noun": noun,
        "the_noun": f"the {noun}",
        "the_old": f"the {old} {noun}",
        "a_new": scene.to_indefinite(phrase, f"{new} {noun}"),
        "a_old": scene.to_indefinite(phrase, f"{old} {noun}"),
        "new": f"{new} {noun}",
        "old": f"{old} {noun}",
        "is": "are" if phrase.plural else "is",
        "a_new_one": f"{new} ones" if phrase.plural else add_article(f"{new} one"),
    }
    if kind in _PREDICATIVE:
        fields["predicative"] = ""
    if not kind:  # "work" of "work boots" is no value by itself
        for name in ("old_value", "new_value", "a_new_one"):
            del fields[name]
    if kind in ("side", "position", "view") and phrase.determiner == "the":
        fields |= {"a_new": f"the {new} {noun}", "a_old": f"the {old} {noun}"}
        del fields["a_new_one"]
    if kind == "colour":
        fields["colour"] = ""
    fields |= compare_values(kind, old, new)
    if attribute.is_predicate:
        return fields | describe_role(scene, phrase)
    return fields | describe_setting(scene, phrase, fields["a_new"], fields["a_old"])


def exchange_numbers(scene: Scene) -> Iterator[Edit]:
    """Yield edits that exchange a number of things for another number."""
    if any(token.lower_ in PAIRED for token in scene.doc):
        return
    for phrase in scene.phrases:
        token = scene.doc[phrase.start]
        if phrase.is_negated or token.lower_ not in NUMBERS[1:] or not phrase.plural or not scene.is_unique(phrase):
            continue
        old = NUMBERS.index(token.lower_) + 1
        counts = [count for count in (old - 2, old - 1, old + 1, old + 2) if 2 <= count <= 6]
        for new in choose_some(counts, scene.rng, 2):
            fields = _describe_number(scene, phrase, old, new, phrase.core, phrase.core)
            change = (token.i, token.i + 1, NUMBERS[new - 1])
            anchors = token_span(phrase) | _find_verbs(scene, fields)
            yield Edit("number", fields, anchors, target=(change,))


def change_between_one_and_several(scene: Scene) -> Iterator[Edit]:
    """Yield edits that exchange one thing for several, or several for one; verbs agree."""
    for phrase in scene.phrases:
        verbs = _find_verbs_of_several(scene, phrase)
        plural = to_plural(phrase.head.lower_)
        if verbs is None or not scene.lexicon.is_sure(plural, "noun") or not scene.lexicon.is_countable(phrase.term):
            continue
        core = " ".join([*phrase.core.split()[:-1], plural])
        several = scene.rng.choice((2, 2, 2, 3, 3, 4))
        word = NUMBERS[several - 1]
        changes = ((phrase.start, phrase.end, f"{word} {core}"), *verbs)
        agreeing = frozenset(start for start, _, _ in verbs)
        if scene.rng.random() < 0.5:
            fields = _describe_number(scene, phrase, 1, several, phrase.core, core)
            anchors = token_span(phrase) | agreeing | _find_verbs(scene, fields)
            yield Edit("number", fields, anchors, target=changes)
        else:
            fields = _describe_number(scene, phrase, several, 1, core, phrase.core)
            anchors = token_span(phrase) | agreeing | _find_verbs(scene, fields)
            yield Edit("number", fields, anchors, reference=changes)


def _make_several(scene: Scene, phrase: NounPhrase, core: str) -> tuple[str, tuple[Change, ...]] | None:
    """Return several things for one, such as "two cats" for "cat", and the changes of verbs; None if not."""
    verbs = _find_verbs_of_several(scene, phrase)
    *modifiers, noun = core.split()
    plural = to_plural(noun)
    if verbs is None or not scene.lexicon.is_sure(plural, "noun") or not scene.lexicon.is_countable(noun):
        return None
    return " ".join([NUMBERS[scene.rng.choice((2, 2, 3)) - 1], *modifiers, plural]), verbs


def _find_verbs_of_several(scene: Scene, phrase: NounPhrase) -> tuple[Change, ...] | None:
    """Return the changes of verbs if several things replace one; None if the caption implies that it is one."""
    if any(token.lower_ in PAIRED or token.lower_ in PRONOUNS for token in scene.doc):
        return None
    head = phrase.head
    if phrase.determiner != "a" or head.tag_ != "NN" or not scene.is_unique(phrase) or phrase.is_part:
        return None
    if any(token.lemma_.lower() in OWN for token in (head.head, *head.rights)) or find_followers(head):
        return None
    if head.head.lower_ == "in" and (head.head.head.lemma_.lower() in PEOPLE or head.head.head.lower_ == "dressed"):
        return None  # several coats are not worn
    return _make_verbs_plural(head)


def _make_verbs_plural(head: "Token") -> tuple[Change, ...] | None:
    """Return the changes of verbs when a singular noun becomes plural; None if it is unclear which verbs agree."""
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


def _describe_number(
    scene: Scene, phrase: NounPhrase, old: int, new: int, old_core: str, new_core: str
) -> dict[str, str]:
    fields = {
        "old_number": NUMBERS[old - 1],
        "new_number": NUMBERS[new - 1],
        "nouns": old_core if old > 1 else new_core,
        **({"noun": new_core if new == 1 else old_core} if 1 in (old, new) else {}),
        "a_new": f"{NUMBERS[new - 1]} {new_core}",
        "a_old": f"{NUMBERS[old - 1]} {old_core}",
        "is": "is" if new == 1 else "are",
        "more" if new > old else "fewer": "",
    }
    if new == 1:
        fields["single"] = ""
    if new > 2:
        fields["group"] = ""
    if old > 1:
        fields["several"] = ""
    if new - old == 1:
        fields["one_more"] = ""
    if old - new == 1:
        fields["one_less"] = ""
    fields |= describe_setting(scene, phrase, fields["a_new"], fields["a_old"])
    if scene.rng.random() < 0.5:  # without the action, which another edit can then change
        fields.pop("doing", None)
    return fields


def exchange_places(scene: Scene) -> Iterator[Edit]:
    """Yield edits that exchange a place or a spatial relation."""
    for token in scene.doc:
        place = find_place(token) if token.dep_ == "prep" and token.head.pos_ == "VERB" else None
        if place is None or place.determiner == "poss" or place.noun in FIXED or token.lower_ not in LOCATIVE:
            continue
        subject = scene.find_phrase(find_subject(token.head))
        if subject is None or not scene.is_unique(subject) or list(place.head.rights) or subject.is_part:
            continue
        if token.head.lemma_.lower() in NEEDS_PLACE:
            continue
        taken = {other.lemma_.lower() for other in scene.doc}
        places = [
            text
            for preposition, text in scene.lexicon.find_places(token.head.lemma_.lower(), place.noun)
            if text.split()[-1] not in taken
            and not set(text.split()) & UNCLEAR
            and (text.split()[0] == token.lower_ or _count_places(token.head) == 1)
        ]
        for text in choose_some(places, scene.rng, 2):
            old = scene.doc[token.i : place.end].text.lower()
            fields = describe_place(scene, token.head, subject, text) | {"old_place": old}
            if "new_path" in fields and "verb" not in fields:
                continue
            anchors = token_span(place) | {token.i}
            fields, mentions = mention_subject(scene, fields, subject)
            changes = ((token.i, place.end, text),)
            yield Edit("place", fields, anchors, target=changes, mentions=mentions | _find_verb(fields, token.head))
        noun_phrase = scene.doc[place.start : place.end].text
        for preposition in choose_some(scene.lexicon.find_prepositions(token.lower_, place.noun), scene.rng, 1):
            fields = describe_place(scene, token.head, subject, f"{preposition} {noun_phrase.lower()}")
            fields["old_place"] = scene.doc[token.i : place.end].text.lower()
            anchors = token_span(place) | {token.i}
            fields, mentions = mention_subject(scene, fields, subject)
            changes = ((token.i, token.i + 1, preposition),)
            yield Edit("place", fields, anchors, target=changes, mentions=mentions | _find_verb(fields, token.head))


def _find_verb(fields: dict[str, str], verb: "Token") -> frozenset[int]:
    """Return the verb that the condition of a place may name."""
    return frozenset([verb.i]) if "verb" in fields else frozenset()


def _count_places(verb: "Token") -> int:
    return sum(token.dep_ == "prep" for token in verb.rights)


def describe_place(scene: Scene, verb: "Token", subject: NounPhrase, place: str) -> dict[str, str]:
    """Return the fields for a new place of a subject and its action."""
    fields = {
        "new_place" if place.split()[0] in STATIC else "new_path": place,
        "is": "are" if subject.plural else "is",
        **describe_subject(scene, subject),
    }
    if verb.tag_ == "VBG" and not any(token.dep_ in ("dobj", "prt", "xcomp", "ccomp") for token in verb.rights):
        fields["verb"] = verb.lower_
        base = verb.lemma_.lower()
        if to_participle(base) == verb.lower_:
            fields["does"] = base if subject.plural else to_third_person(base)
    return fields


def exchange_actions(scene: Scene) -> Iterator[Edit]:
    """Yield edits that exchange an action."""
    for verb in scene.doc:
        if verb.tag_ != "VBG" or verb.dep_ not in ("ROOT", "acl"):
            continue
        subject = scene.find_phrase(find_subject(verb))
        complements = find_complements(verb)
        if (
            subject is None
            or subject.is_part
            or "?" in complements
            or not scene.is_unique(subject)
            or not scene.lexicon.is_sure(verb.lower_, "verb")
        ):
            continue
        actions = scene.lexicon.find_actions(verb.lower_, [f"{subject.noun} <", *complements])
        for action in choose_some(actions, scene.rng, 2):
            fields = {
                "old_verb": verb.lower_,
                "new_verb": action,
                "is": "are" if subject.plural else "is",
                **describe_subject(scene, subject),
            }
            where = frozenset[int]()
            after = next(iter(verb.rights), None)
            if after is not None and after.dep_ == "prep" and after.i == verb.i + 1 and (place := find_place(after)):
                fields["where"] = scene.doc[after.i : place.end].text.lower()
                where = frozenset(range(after.i, place.end))
            fields, mentions = mention_subject(scene, fields, subject)
            changes = ((verb.i, verb.i + 1, action),)
            yield Edit("action", fields, frozenset([verb.i]), target=changes, mentions=mentions | where)

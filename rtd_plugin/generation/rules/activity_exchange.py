"""Edits that exchange all that a caption says of its subject: the same dog swims in a river instead."""

from collections.abc import Iterator

from rtd_plugin.generation.rules.activities import find_activity
from rtd_plugin.generation.rules.fragments import is_title
from rtd_plugin.generation.rules.phrases import NounPhrase
from rtd_plugin.generation.rules.scene import Edit, Scene, choose_some, describe_subject, mention_subject, to_participle
from rtd_plugin.generation.rules.word_classes import FIXED, may_be_same_action

SHORT = 4  # words of the old activity in a condition
_LINKS = frozenset(["in", "on", "at", "near", "with", "through", "over", "by", "while", "along", "across", "next"])


def exchange_activities(scene: Scene) -> Iterator[Edit]:
    """Yield edits that exchange the whole activity of the subject for one that another caption has."""
    found = find_activity(scene.doc)
    if found is None or is_title(scene.doc.text):
        return
    subject, activity = scene.find_phrase(found[0]), found[1]
    if subject is None or subject.start != 0 or subject.noun in FIXED or not scene.is_unique(subject):
        return
    old = scene.doc[activity.start : activity.end].text.lower()
    lemmas = {token.lemma_.lower() for token in scene.doc if token.pos_ in ("NOUN", "VERB")}
    acting = to_participle(old)
    choices = [
        text
        for text in scene.lexicon.find_activities(activity.subject, activity.form)
        if not lemmas & set(text.split()) and not may_be_same_action(acting.split()[0], to_participle(text).split()[0])
    ]
    for text in choose_some(choices, scene.rng, 2):
        fields, mentions = mention_subject(scene, _describe(scene, subject, acting, text, activity.form), subject)
        anchors = frozenset(range(subject.end, activity.end))
        yield Edit("activity", fields, anchors, target=((activity.start, activity.end, text),), mentions=mentions)


def _describe(scene: Scene, subject: NounPhrase, acting: str, new: str, form: str) -> dict[str, str]:
    fields = {
        "new_act": to_participle(new),
        "is": "are" if subject.plural else "is",
        **describe_subject(scene, subject),
    }
    short = _shorten(acting)
    if short:
        fields["old_act"] = short
    if not form.startswith("VBG"):
        fields["new_does"] = new
    return fields


def _shorten(acting: str) -> str:
    """Return an activity for a condition: whole if it is short, or up to its first object or place."""
    words = acting.split()
    if len(words) <= SHORT:
        return acting
    for end in range(2, min(len(words), SHORT + 2)):
        if words[end] in _LINKS:
            return " ".join(words[:end])
    return ""

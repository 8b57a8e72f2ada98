"""What a caption says of its subject, from the main verb on: "swims in a river"."""

from typing import TYPE_CHECKING, NamedTuple

from rtd_plugin.generation.rules.phrases import SUBJECT

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

LONGEST = 9  # words of an activity
# Dependents that tie an activity to its subject, or may make it a sentence of its own.
_UNCLEAR = frozenset(
    [
        "conj",
        "cc",
        "relcl",
        "advcl",
        "ccomp",
        "csubj",
        "appos",
        "nsubj",
        "nsubjpass",
        "expl",
        "mark",
        "neg",
        "parataxis",
        "dep",
        "poss",
        "attr",
    ]
)


class Activity(NamedTuple):
    """What a caption says of its subject, from the main verb on.

    Attributes:
        subject: the noun's lemma.
        form: of the verb, a tag, with the number of the subject: activities of one form may replace each other.
        start, end: the range of its tokens.
    """

    subject: str
    form: str
    start: int
    end: int


def find_activity(doc: "Doc") -> "tuple[Token, Activity] | None":
    """Return the subject and the activity of a caption that is a subject and an activity, and nothing else."""
    root = next((token for token in doc if token.dep_ == "ROOT"), None)
    if root is None:
        return None
    verb: Token | None = root
    subject: Token | None = root
    if root.tag_ in ("NN", "NNS"):  # "a dog running on the grass"
        verb = next((token for token in root.rights if token.dep_ == "acl" and token.tag_ == "VBG"), None)
    else:
        subject = next((token for token in root.lefts if token.dep_ in SUBJECT and token.tag_ in ("NN", "NNS")), None)
    if verb is None or subject is None or verb.tag_ not in ("VBG", "VBZ", "VBP"):
        return None
    end = len(doc)
    while end and doc[end - 1].is_punct:
        end -= 1
    activity = doc[verb.i : end]
    before = doc[subject.i + 1 : verb.i]
    if not 2 <= len(activity) <= LONGEST or not subject.i < verb.i or verb.lemma_.lower() in ("be", "have"):
        return None
    if len(before) > 1 or any(token.lower_ not in ("is", "are") for token in before):
        return None
    if any(
        not token.text.isalpha() or token.tag_ in ("NNP", "NNPS", "PRP", "PRP$") or token.dep_ in _UNCLEAR
        for token in activity
        if token != verb
    ):
        return None
    if any(token.tag_ in ("PRP", "PRP$") or token.lower_ in ("each", "both", "together") for token in doc):
        return None
    return subject, Activity(subject.lemma_.lower(), f"{verb.tag_} {subject.tag_}", verb.i, end)

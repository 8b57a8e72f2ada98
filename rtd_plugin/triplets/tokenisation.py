"""Many triplets to tokens at once, by column: each distinct text once, and of most texts each distinct word once.

Texts of printable ASCII are cut into words by Arrow, which lets other threads work meanwhile; others, a few, take the
way of `clip.tokens`, one by one. Both give the tokens that `encode_text` and `Prompt.encode_condition` give.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rtd_plugin.clip.tokens import Prompt, clean_caption, encode_text, encode_word
from rtd_plugin.triplets.interning import mixed

PLAIN = "^[ -%'-~]*$"  # printable ASCII without ampersands: in such a text there is nothing for the tokenizer to clean
SEEDS = 0x243F6A8885A308D3, 0x13198A2E03707344  # of the two hashes of a text

Encode = Callable[[str], Iterable[int]]


class Ragged(NamedTuple):
    """Rows of different lengths: (T,) integers, one row after the other, and (N,) int64, their lengths."""

    values: np.ndarray
    lengths: np.ndarray

    def take(self, rows: np.ndarray) -> "Ragged":
        """Some of the rows, in the order given."""
        starts, lengths = (np.cumsum(self.lengths) - self.lengths)[rows], self.lengths[rows]
        shifts = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
        return Ragged(self.values[np.arange(len(shifts)) + shifts], lengths)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """The sum of each row, had it these values: (N,) of their type, whose overflow it wraps around."""
        totals = np.concatenate([np.zeros(1, values.dtype), np.cumsum(values, dtype=values.dtype)])
        ends = np.cumsum(self.lengths)
        return totals[ends] - totals[ends - self.lengths]


@dataclass(frozen=True)
class Piece:
    """N triplets as tokens.

    Attributes:
        texts: tokens, uint16, of their M texts, in the order in which triplets name them first; some may be equal.
        keys: (M, 2) uint64, hashes of the texts: equal for equal texts only.
        triplets: (N, 3) int64, which of the texts are reference, condition and target.
    """

    texts: Ragged
    keys: np.ndarray
    triplets: np.ndarray


def tokenised_piece(columns: Sequence[pa.Array], prompt: Prompt) -> Piece:
    """Tokenise triplets.

    Args:
        columns: references, conditions and targets: N texts each, of any of Arrow's types for them.
        prompt: whose placeholder conditions must not have.
    """
    references, asked, targets = (pc.fill_null(column.cast(pa.large_string()), "") for column in columns)

    def caption_words(texts: pa.Array) -> pa.Array:
        return pc.replace_substring(pc.replace_substring(texts, "<PERSON>", "person"), "$", "")

    def condition_words(texts: pa.Array) -> pa.Array:
        return pc.replace_substring(texts, prompt.placeholder, " ")

    def condition_word(word: str) -> list[int]:
        return [token for token in encode_word(word) if token != prompt.placeholder_id]

    captions, places = _encoded(
        pa.concat_arrays([references, targets]),
        caption_words,
        encode_word,
        lambda text: encode_text(clean_caption(text)),
    )
    conditions, asked_places = _encoded(asked, condition_words, condition_word, prompt.encode_condition)
    texts = _joined(captions, conditions)
    count = len(references)
    triplets = np.stack([places[:count], len(captions.lengths) + asked_places, places[count:]], axis=1)
    named = triplets.ravel()[::-1]
    first = np.empty(len(texts.lengths), np.int64)
    first[named] = np.arange(len(named))[::-1]  # of several values the last stays: the first place
    order = np.argsort(first)
    texts, triplets = texts.take(order), np.argsort(order)[triplets]
    return Piece(texts, _keys(texts), triplets)


def _encoded(
    texts: pa.Array, prepare: Callable[[pa.Array], pa.Array], word: Encode, text: Encode
) -> tuple[Ragged, np.ndarray]:
    """The tokens of distinct texts, and which of these rows each text has.

    Args:
        texts: (N,) of them, some equal.
        prepare: gives the plain ones as they are cut into words.
        word, text: encode a word of a plain text, and another text.
    """
    found = texts.dictionary_encode()
    texts = found.dictionary
    plain = pc.match_substring_regex(texts, PLAIN)
    others = [list(text(other)) for other in texts.filter(pc.invert(plain)).to_pylist()]
    rows = _joined(_by_words(prepare(texts.filter(plain)), word), _ragged(others))
    # The plain ones come first now.
    order = np.argsort(~plain.to_numpy(zero_copy_only=False), kind="stable")
    return rows, np.argsort(order)[found.indices.to_numpy()]


def _by_words(texts: pa.Array, word: Encode) -> Ragged:
    words = pc.ascii_split_whitespace(pc.ascii_lower(texts))
    found = words.values.dictionary_encode()
    table = _ragged([word(one) for one in found.dictionary.to_pylist()])
    tokens = table.take(found.indices.to_numpy())
    lengths = Ragged(tokens.lengths, np.diff(words.offsets.to_numpy()).astype(np.int64)).sums(tokens.lengths)
    return Ragged(tokens.values, lengths)


def _ragged(rows: Sequence[Sequence[int]]) -> Ragged:
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    return Ragged(np.fromiter((value for row in rows for value in row), np.uint16, lengths.sum()), lengths)


def _joined(one: Ragged, other: Ragged) -> Ragged:
    return Ragged(*(np.concatenate(arrays) for arrays in zip(one, other, strict=True)))


def _keys(texts: Ragged) -> np.ndarray:
    """Two hashes of 64 bits a text, sums over hashes of token and place: 10⁹ texts have no equal ones by chance."""
    starts = np.cumsum(texts.lengths) - texts.lengths
    places = np.arange(len(texts.values)) - np.repeat(starts, texts.lengths)
    tokens = (places.astype(np.uint64) << np.uint64(16)) | texts.values.astype(np.uint64)
    return np.stack([texts.sums(mixed(tokens + np.uint64(seed))) for seed in SEEDS], axis=1)

"""Tokenise many triplets at once, by column: each distinct text once, and of most texts each distinct word once.

Arrow splits texts of printable ASCII into words without the GIL, so other threads can work meanwhile. The few other
texts are tokenised one by one by `clip.tokens`. Both give the tokens of `encode_text` and `Prompt.encode_condition`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rtd_plugin.clip.tokens import Prompt, clean_caption, encode_text, encode_word
from rtd_plugin.triplets.interning import mix_bits
from rtd_plugin.triplets.ragged import Ragged, concatenate_ragged

PLAIN = "^[ -%'-~]*$"  # printable ASCII without ampersands: the tokenizer has nothing to clean in such a text
SEEDS = 0x243F6A8885A308D3, 0x13198A2E03707344  # of the two hashes of a text

Encode = Callable[[str], Iterable[int]]


@dataclass(frozen=True)
class TokenisedTriplets:
    """N triplets as tokens.

    Attributes:
        texts: uint16 tokens of M texts, in the order in which the triplets first refer to them; some may be equal.
        keys: (M, 2) uint64, hashes of the texts: equal only for equal texts.
        triplets: (N, 3) int64, the rows of `texts` for reference, condition and target.
    """

    texts: Ragged
    keys: np.ndarray
    triplets: np.ndarray


def tokenise_columns(columns: Sequence[pa.Array], prompt: Prompt) -> TokenisedTriplets:
    """Tokenise triplets.

    Args:
        columns: references, conditions and targets: N texts each, of any Arrow type for text.
        prompt: its placeholder is removed from conditions.
    """
    references, conditions, targets = (pc.fill_null(column.cast(pa.large_string()), "") for column in columns)

    def clean_captions(texts: pa.Array) -> pa.Array:
        return pc.replace_substring(pc.replace_substring(texts, "<PERSON>", "person"), "$", "")

    def clean_conditions(texts: pa.Array) -> pa.Array:
        return pc.replace_substring(texts, prompt.placeholder, " ")

    def encode_condition_word(word: str) -> list[int]:
        return [token for token in encode_word(word) if token != prompt.placeholder_id]

    captions, caption_rows = _encode_column(
        pa.concat_arrays([references, targets]),
        clean_captions,
        encode_word,
        lambda text: encode_text(clean_caption(text)),
    )
    asked, condition_rows = _encode_column(conditions, clean_conditions, encode_condition_word, prompt.encode_condition)
    texts = concatenate_ragged(captions, asked)
    count = len(references)
    triplets = np.stack([caption_rows[:count], len(captions.lengths) + condition_rows, caption_rows[count:]], axis=1)
    # Sort the texts by where a triplet first refers to them. Reversed: numpy keeps the last of several assignments.
    reversed_rows = triplets.ravel()[::-1]
    first = np.empty(len(texts.lengths), np.int64)
    first[reversed_rows] = np.arange(len(reversed_rows))[::-1]
    order = np.argsort(first)
    texts, triplets = texts.take(order), np.argsort(order)[triplets]
    return TokenisedTriplets(texts, _hash_texts(texts), triplets)


def _encode_column(
    texts: pa.Array, clean: Callable[[pa.Array], pa.Array], encode_word: Encode, encode_text: Encode
) -> tuple[Ragged, np.ndarray]:
    """Encode distinct texts; return their tokens, and for each text its row among them.

    Args:
        texts: (N,), some may be equal.
        clean: prepares plain texts for splitting into words.
        encode_word, encode_text: encode a word of a plain text, and any other text.
    """
    encoded = texts.dictionary_encode()
    distinct = encoded.dictionary
    plain = pc.match_substring_regex(distinct, PLAIN)
    irregular = [list(encode_text(text)) for text in distinct.filter(pc.invert(plain)).to_pylist()]
    rows = concatenate_ragged(_encode_words(clean(distinct.filter(plain)), encode_word), _to_ragged(irregular))
    order = np.argsort(~plain.to_numpy(zero_copy_only=False), kind="stable")  # plain texts come first in `rows`
    return rows, np.argsort(order)[encoded.indices.to_numpy()]


def _encode_words(texts: pa.Array, encode_word: Encode) -> Ragged:
    words = pc.ascii_split_whitespace(pc.ascii_lower(texts))
    encoded = words.values.dictionary_encode()
    vocabulary = _to_ragged([list(encode_word(word)) for word in encoded.dictionary.to_pylist()])
    tokens = vocabulary.take(encoded.indices.to_numpy())
    words_per_text = np.diff(words.offsets.to_numpy()).astype(np.int64)
    return Ragged(tokens.values, Ragged(tokens.lengths, words_per_text).sum_rows(tokens.lengths))


def _to_ragged(rows: Sequence[Sequence[int]]) -> Ragged:
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    return Ragged(np.fromiter((value for row in rows for value in row), np.uint16, lengths.sum()), lengths)


def _hash_texts(texts: Ragged) -> np.ndarray:
    """Hash each text to 128 bits, sums over hashes of (token, position): 10⁹ texts are unlikely to collide."""
    starts = np.cumsum(texts.lengths) - texts.lengths
    positions = np.arange(len(texts.values)) - np.repeat(starts, texts.lengths)
    tokens = (positions.astype(np.uint64) << np.uint64(16)) | texts.values.astype(np.uint64)
    return np.stack([texts.sum_rows(mix_bits(tokens + np.uint64(seed))) for seed in SEEDS], axis=1)

"""Triplets as tokens, kept on disk: tokenised once, then mapped, so that neither time nor memory grow with them.

A store is a folder of four arrays, in files of nothing else: `tokens.u16`, the token ids of all distinct texts one
after the other; `starts.i64`, where each text begins and the last one ends; `triplets.u32`, the numbers of each
triplet's three texts; `vocabulary.u16`, the token ids that occur.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from copy import copy
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rtd_plugin.cache import build_once
from rtd_plugin.clip.tokens import Prompt, clean_caption, encode_text
from rtd_plugin.triplets.mixture import Mixture
from rtd_plugin.triplets.parallel import in_order, processors
from rtd_plugin.triplets.triplet import Triplet, TripletSet

FORMAT = 1
PIECE = 2**13  # triplets that are tokenised at once, and written; progress is reported after each
MOST_THREADS = 4  # what reads, numbers and writes texts keeps no more busy

Advance = Callable[[int, int], None]


class TokenTriplet(NamedTuple):
    """A triplet's token ids, without start and end: captions as they are cleaned, the condition as prompts have it.

    Attributes:
        numbers: of its reference and target among the store's texts, None of a triplet in no store.
    """

    reference: list[int]
    condition: list[int]
    target: list[int]
    numbers: tuple[int, int] | None = None


def tokenised(triplet: Triplet, prompt: Prompt) -> TokenTriplet:
    """A triplet's tokens; its condition has none that the prompt's placeholder could be confused with."""
    reference, target = (encode_text(clean_caption(text)) for text in (triplet.reference, triplet.target))
    return TokenTriplet(reference, prompt.encode_condition(triplet.condition), target)


class TokenStore(Sequence[TokenTriplet]):
    """The triplets of a folder that `token_store` made.

    Attributes:
        key: names what the store was made of.
        texts: how many distinct ones there are.
        vocabulary: the token ids in them, ascending.
    """

    def __init__(self, folder: Path):
        self.key = folder.name
        self._tokens, self._starts = _mapped(folder / "tokens.u16"), _mapped(folder / "starts.i64")
        self._triplets = _mapped(folder / "triplets.u32").reshape(-1, 3)
        self._order: Sequence[int] = range(len(self._triplets))
        self.texts = len(self._starts) - 1
        self.vocabulary: list[int] = _mapped(folder / "vocabulary.u16").tolist()

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> TokenTriplet:
        reference, condition, target = self._triplets[self._order[index]].tolist()
        return TokenTriplet(*map(self._text, (reference, condition, target)), (reference, target))

    def mixed(self, mixture: Mixture) -> "TokenStore":
        """The same triplets, each as often as its source's share asks for."""
        store = copy(self)
        store._order = mixture
        if mixture.name:
            store.key = f"{self.key}-{mixture.name}"
        return store

    def _text(self, number: int) -> list[int]:
        start, end = self._starts[number : number + 2]
        return self._tokens[start:end].tolist()


def _mapped(path: Path) -> np.ndarray:
    kind = path.suffix.removeprefix(".")
    dtype = np.dtype(f"{kind[0]}{int(kind[1:]) // 8}")
    if not path.stat().st_size:
        return np.empty(0, dtype)  # nothing cannot be mapped
    return np.asarray(np.memmap(path, dtype, mode="r"))  # of numpy's own type, which is sooner indexed


def token_store(sets: Sequence[TripletSet], prompt: Prompt, advance: Advance = lambda done, total: None) -> TokenStore:
    """The tokens of triplets, from the cache folder; made there if no earlier run did.

    Args:
        sets: of all sources, one after the other.
        prompt: of the method, for whose placeholder there must be no room in conditions.
        advance: called now and then while a store is made, with the triplets that are done and that there are.

    Raises:
        WriteError: the cache folder cannot be written.
    """
    made_of = [
        FORMAT,
        version("open_clip_torch"),
        prompt.placeholder,
        *((part.digest, part.count) for part in sets),
    ]
    folder = build_once("tokens", made_of, lambda draft: _write(draft, sets, prompt, advance))
    return TokenStore(folder)


def _write(folder: Path, sets: Sequence[TripletSet], prompt: Prompt, advance: Advance) -> None:
    """Tokenise triplets, and number, in their order, and write the texts that no earlier piece had."""
    from rtd_plugin.triplets.arrow_triplets import by_column
    from rtd_plugin.triplets.interning import Numbers
    from rtd_plugin.triplets.tokenisation import tokenised_piece

    total, done, end = sum(part.count for part in sets), 0, 0
    numbers, used = Numbers(), np.zeros(2**16, dtype=bool)
    encode_text("a")  # the tokenizer is loaded, before several threads do it at once
    pieces = (columns for part in sets for columns in by_column(part.triplets, PIECE))
    with ExitStack() as stack:
        tokens, starts, triplets = (
            stack.enter_context((folder / name).open("wb")) for name in ("tokens.u16", "starts.i64", "triplets.u32")
        )
        starts.write(np.zeros(1, np.int64))
        threads = min(processors(), MOST_THREADS)
        pool = stack.enter_context(ThreadPoolExecutor(threads))
        for piece in in_order(pool, partial(tokenised_piece, prompt=prompt), pieces, ahead=threads):
            places, new = numbers.of(piece.keys)
            texts = piece.texts.take(new)
            ends = end + np.cumsum(texts.lengths)
            end += len(texts.values)
            tokens.write(texts.values)
            starts.write(ends)
            triplets.write(places[piece.triplets])
            used[texts.values] = True
            done += len(piece.triplets)
            advance(done, total)
    (folder / "vocabulary.u16").write_bytes(np.flatnonzero(used).astype(np.uint16).tobytes())

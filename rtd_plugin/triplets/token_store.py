"""Triplets as tokens on disk: tokenised once, then memory-mapped; start-up time and memory do not grow with them.

A store is a folder of four raw arrays: `tokens.u16`, the token ids of all distinct texts one after the other;
`starts.i64`, where each text begins and the last one ends; `triplets.u32`, the indices of each triplet's three texts;
`vocabulary.u16`, the token ids that occur.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from copy import copy
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rtd_plugin.cache import build_once
from rtd_plugin.clip.tokens import Prompt, encode_text
from rtd_plugin.progress import Advance, ignore_progress
from rtd_plugin.triplets.interning import mix_bits
from rtd_plugin.triplets.mixture import Mixture
from rtd_plugin.triplets.parallel import count_processors, map_in_order
from rtd_plugin.triplets.ragged import Ragged, gather_slices
from rtd_plugin.triplets.request_wordings import RequestWordings, group_wordings
from rtd_plugin.triplets.triplet import TripletSet

FORMAT = 1
CHUNK = 2**13  # triplets tokenised and written at once; progress is reported after each chunk
MAX_THREADS = 4  # the single thread that interns and writes texts cannot feed more


class TokenBatch(NamedTuple):
    """B triplets as token ids, without start and end.

    Attributes:
        references, conditions, targets: B rows of uint16 each.
        captions: (B, 2) int64, the indices of reference and target among the store's texts.
    """

    references: Ragged
    conditions: Ragged
    targets: Ragged
    captions: np.ndarray


class TokenStore:
    """The triplets in a folder that `open_token_store` wrote.

    Attributes:
        key: identifies what the store was made from, and its mixture.
        records: number of triplets of all sources, each counted once.
        texts: number of distinct texts.
        vocabulary: the token ids that occur, ascending.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.key = folder.name
        self._tokens, self._starts = _map_array(folder / "tokens.u16"), _map_array(folder / "starts.i64")
        self._triplets = _map_array(folder / "triplets.u32").reshape(-1, 3)
        self.records = len(self._triplets)
        self._mixture = Mixture([self.records], [None])
        self._requests: RequestWordings | None = None  # what the mixture is of; None for single triplets
        self._seed = 0  # of the choice among a request's wordings
        self._selected: np.ndarray | None = None  # positions of the mixture; None for all
        self.texts = len(self._starts) - 1
        self.vocabulary: list[int] = _map_array(folder / "vocabulary.u16").tolist()

    def __len__(self) -> int:
        return len(self._mixture) if self._selected is None else len(self._selected)

    def gather(self, rows: np.ndarray, epoch: int = 0, later: int = 0) -> TokenBatch:
        """Read many triplets at once.

        Args:
            rows: (B,) integers in [0, len(self)).
            epoch: counted from 0; only the choice of conditions by `sample_wordings` depends on it.
            later: 0 for that choice, 1 for the wordings of the next visit, and so on.

        Raises:
            IndexError: a row is outside the store.
        """
        positions = rows if self._selected is None else self._selected[rows]
        indices = self._mixture.rows(positions)
        if self._requests is not None:
            indices = self._requests.choose(indices, self._mixture.count_visits(positions, epoch) + later, self._seed)
        triplets = self._triplets[indices].astype(np.int64)
        starts = self._starts[triplets]
        lengths = self._starts[triplets + 1] - starts
        references, conditions, targets = (
            gather_slices(self._tokens, starts[:, column], lengths[:, column]) for column in range(3)
        )
        return TokenBatch(references, conditions, targets, triplets[:, [0, 2]])

    def reorder(self, mixture: Mixture) -> "TokenStore":
        """Return the same store with the triplets of each source as often as the mixture has them."""
        store = copy(self)
        store._mixture = mixture
        if mixture.name:
            store.key = f"{self.key}-{mixture.name}"
        return store

    def sample_wordings(self, seed: int) -> "TokenStore":
        """Return the store with one triplet in place of all that share both captions, another one in each epoch.

        In a mixture with weights, a source that is repeated within an epoch has another wording at each repetition, and
        each source has its own requests. Grouping a million triplets takes 0.3 to 0.4 s on a slow core, and 4 bytes for
        each triplet and 8 for each request.

        Args:
            seed: of the wordings, any number of 64 bits.
        """
        store, mixture = copy(self), self._mixture
        store._requests, sizes = group_wordings(self._triplets, mixture.sizes if mixture.name else [self.records])
        store._mixture = Mixture(sizes, mixture.weights if mixture.name else [None])
        store._seed = seed
        store.key = "-".join(filter(None, [self._folder.name, store._mixture.name, "wordings"]))
        return store

    def hold_out(self, share: float, limit: int, seed: int) -> tuple["TokenStore", "TokenStore"]:
        """Split the store into the triplets to train on and some that are held out.

        All triplets of a reference caption are on the same side. Which captions are held out depends on the seed. After
        `sample_wordings`, a request counts as one triplet, and is held out in one wording.

        Args:
            share: of the triplets that are held out, 0 to 1; the last caption's triplets may exceed it.
            limit: the most triplets that are held out, but for those of the last caption.
            seed: any number of 64 bits.

        Returns:
            The triplets to train on, as often as the mixture has them, and those held out, each once.
        """
        triplets = self._triplets if self._requests is None else self._triplets[self._requests.first_rows]
        hashes = mix_bits(mix_bits(triplets[:, 0].astype(np.uint64)) ^ np.uint64(seed))
        last = max(1, min(limit, round(share * len(hashes)))) - 1
        is_held_out = hashes <= np.partition(hashes, last)[last]
        rest, held_out = copy(self), copy(self)
        rest._selected = np.flatnonzero(~is_held_out[self._mixture.rows(np.arange(len(self._mixture)))])
        rest.key = f"{self.key}-without-{last + 1}-{seed}"
        held_out._mixture, held_out._selected = Mixture([len(hashes)], [None]), np.flatnonzero(is_held_out)
        return rest, held_out


def _map_array(path: Path) -> np.ndarray:
    suffix = path.suffix.removeprefix(".")
    dtype = np.dtype(f"{suffix[0]}{int(suffix[1:]) // 8}")
    if not path.stat().st_size:
        return np.empty(0, dtype)  # an empty file cannot be mapped
    return np.asarray(np.memmap(path, dtype, mode="r"))  # a plain ndarray is indexed faster than a memmap


def open_token_store(sets: Sequence[TripletSet], prompt: Prompt, advance: Advance = ignore_progress) -> TokenStore:
    """Return the tokens of triplets from the cache folder; tokenise and write them there the first time.

    Args:
        sets: the triplets of all sources.
        prompt: of the method; its placeholder is removed from conditions.
        advance: called with the triplets done and their total while a store is written.

    Raises:
        WriteError: the cache folder cannot be written.
    """
    key = [
        FORMAT,
        version("open_clip_torch"),
        prompt.placeholder,
        prompt.placeholder_id,
        *((source.digest, source.count) for source in sets),
    ]
    return TokenStore(build_once("tokens", key, partial(_write, sets=sets, prompt=prompt, advance=advance)))


def _write(folder: Path, sets: Sequence[TripletSet], prompt: Prompt, advance: Advance) -> None:
    """Tokenise triplets chunk by chunk; intern the texts in order, and write those that are new."""
    from rtd_plugin.triplets.arrow_triplets import iterate_columns
    from rtd_plugin.triplets.interning import Interner
    from rtd_plugin.triplets.tokenisation import tokenise_columns

    total, done, end = sum(source.count for source in sets), 0, 0
    interner, used = Interner(), np.zeros(2**16, dtype=bool)
    encode_text("a")  # loads the tokenizer before several threads would at once
    columns = (columns for source in sets for columns in iterate_columns(source.triplets, CHUNK))
    with ExitStack() as stack:
        tokens, starts, triplets = (
            stack.enter_context((folder / name).open("wb")) for name in ("tokens.u16", "starts.i64", "triplets.u32")
        )
        starts.write(np.zeros(1, np.int64).data)
        threads = min(count_processors(), MAX_THREADS)
        pool = stack.enter_context(ThreadPoolExecutor(threads))
        for chunk in map_in_order(pool, partial(tokenise_columns, prompt=prompt), columns, ahead=threads):
            indices, new = interner.intern(chunk.keys)
            texts = chunk.texts.take(new)
            ends = end + np.cumsum(texts.lengths)
            end += len(texts.values)
            tokens.write(texts.values.data)
            starts.write(ends.data)
            triplets.write(indices[chunk.triplets].data)
            used[texts.values] = True
            done += len(chunk.triplets)
            advance(done, total)
    (folder / "vocabulary.u16").write_bytes(np.flatnonzero(used).astype(np.uint16).tobytes())

"""Triplets as tokens, kept on disk: tokenised once, then mapped, so that neither time nor memory grow with them.

A store is a folder of four arrays, in files of nothing else: `tokens.u16`, the token ids of all distinct texts one
after the other; `starts.i64`, where each text begins and the last one ends; `triplets.u32`, the numbers of each
triplet's three texts; `vocabulary.u16`, the token ids that occur.
"""

import hashlib
import json
from array import array
from collections.abc import Callable, Sequence
from copy import copy
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock

from rtd_plugin.clip.tokens import Prompt, clean_caption, encode_text
from rtd_plugin.errors import RTDError
from rtd_plugin.files import cache_folder, written_atomically
from rtd_plugin.triplets.mixture import Mixture
from rtd_plugin.triplets.triplet import Triplet, TripletSet

FORMAT = 1
PIECE = 2**14  # triplets between two reports of progress, and two writes

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
    return np.memmap(path, dtype, mode="r") if path.stat().st_size else np.empty(0, dtype)  # nothing cannot be mapped


def token_store(sets: Sequence[TripletSet], prompt: Prompt, advance: Advance = lambda done, total: None) -> TokenStore:
    """The tokens of triplets, from the cache folder; made there if no earlier run did.

    Args:
        sets: of all sources, one after the other.
        prompt: of the method, for whose placeholder there must be no room in conditions.
        advance: called now and then while a store is made, with the triplets that are done and that there are.

    Raises:
        RTDError: the cache folder cannot be written.
    """
    made_of = [
        FORMAT,
        version("open_clip_torch"),
        prompt.placeholder,
        *((part.digest, len(part.triplets)) for part in sets),
    ]
    folder = cache_folder() / "tokens" / hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:32]
    if not folder.is_dir():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_suffix(".lock")):  # of several processes one does the work
                if not folder.is_dir():
                    with written_atomically(folder) as draft:
                        draft.mkdir()
                        _write(draft, sets, prompt, advance)
        except OSError as error:
            raise RTDError(f"{folder.parent}: cannot be written ({error.strerror}): set RTD_PLUGIN_CACHE") from error
    return TokenStore(folder)


def _write(folder: Path, sets: Sequence[TripletSet], prompt: Prompt, advance: Advance) -> None:
    """Tokenise triplets and write their store's arrays, piece by piece."""
    total, done = sum(len(part.triplets) for part in sets), 0
    numbers: dict[bytes, int] = {}  # of the distinct texts
    lengths, rows, fresh, used = array("q", [0]), array("I"), [], set()

    def number(ids: Sequence[int]) -> int:
        text = array("H", ids).tobytes()
        known = numbers.get(text)
        if known is None:
            known = numbers[text] = len(numbers)
            fresh.append(text)
            lengths.append(len(ids))
            used.update(ids)
        return known

    with (folder / "tokens.u16").open("wb") as tokens, (folder / "triplets.u32").open("wb") as triplets:
        for triplet in chain.from_iterable(part.triplets for part in sets):
            reference, condition, target, _ = tokenised(triplet, prompt)
            rows.extend((number(reference), number(condition), number(target)))
            done += 1
            if done % PIECE == 0 or done == total:
                tokens.write(b"".join(fresh))
                triplets.write(rows)
                del fresh[:], rows[:]
                advance(done, total)
    np.cumsum(lengths, dtype=np.int64).tofile(folder / "starts.i64")
    np.array(sorted(used), dtype=np.uint16).tofile(folder / "vocabulary.u16")

"""Which triplets a batch has, and the batch as tokens and noise.

Everything here is a function of the seed and the batch's index, so a run that resumes needs to know only its step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from rtd_plugin.clip.tokens import END, START
from rtd_plugin.contract.adapter import Adapter
from rtd_plugin.errors import RTDError
from rtd_plugin.triplets.interning import mix_bits
from rtd_plugin.triplets.ragged import Ragged
from rtd_plugin.triplets.token_store import TokenBatch

FEISTEL_ROUNDS = 6
CONDITION, REFERENCE = -1, -2  # stand for a triplet's texts in a prompt

AnyDataclass = TypeVar("AnyDataclass")


@dataclass(frozen=True, eq=False)
class Batch:
    """B triplets as tokens, (B, L) int64 with an L for each field, zeros after the end token.

    Attributes:
        references: reference captions, for the frozen encoder.
        targets: target captions, for the frozen encoder.
        queries: composed queries: the prompt with the condition, and a placeholder or the reference caption in it.
        unconditioned: the same without the condition.
        captions: (B, 2) int64, index of reference and target among the run's captions.
        noise: (B, D) fp32, to be added to the references' features.
        composed: the queries, then the unconditioned ones if they are hard negatives, as `prepare` made them.
        packed_captions: the targets, then the references, if they were prepared too.
    """

    references: Tensor
    targets: Tensor
    queries: Tensor
    unconditioned: Tensor
    captions: Tensor
    noise: Tensor | None = None
    composed: Any = None
    packed_captions: Any = None


def make_batch(triplets: TokenBatch, adapter: Adapter, context_length: int, projected: bool = True) -> Batch:
    """Put triplets' tokens into prompts.

    Args:
        triplets: B of them.
        adapter: whose prompts make the queries.
        context_length: of the text tower; a longer text keeps its first context_length - 2 tokens.
        projected: True for a placeholder in the queries; False puts the reference caption in its place, the plain
            concatenation of texts that the paper compares with.
    """
    subject = None if projected else [REFERENCE]
    texts = {CONDITION: triplets.conditions, REFERENCE: triplets.references}
    prompt = adapter.prompt.fill(subject, condition=[CONDITION])
    unconditioned = adapter.unconditioned_prompt.fill(subject)
    return Batch(
        references=fill_rows([REFERENCE], texts, context_length),
        targets=fill_rows([REFERENCE], {REFERENCE: triplets.targets}, context_length),
        queries=fill_rows(prompt, texts, context_length),
        unconditioned=fill_rows(unconditioned, texts, context_length),
        captions=torch.from_numpy(triplets.captions),
    )


def fill_rows(template: Sequence[int], texts: dict[int, Ragged], context_length: int) -> Tensor:
    """Fill a template with each row's texts, between start and end tokens.

    Args:
        template: token ids; a negative one stands for the row's text of that key.
        texts: B texts a key.
        context_length: longest row, start and end included.

    Returns:
        (B, L) int64, L the longest row, zeros after the end token.
    """
    rows = len(next(iter(texts.values())).lengths)
    pieces = [np.full(rows, 1) if token >= 0 else texts[token].lengths for token in template]
    filled = np.ones(rows, np.int64)  # columns that are filled, the start token's first
    room = context_length - 1  # columns before the end token
    width = min(int(sum(pieces, np.ones(rows, np.int64)).max()), room) + 1
    tokens = np.zeros((rows, width), np.int64)
    tokens[:, 0] = START
    for token, lengths in zip(template, pieces, strict=True):
        if token >= 0:
            fits = filled < room
            tokens[np.flatnonzero(fits), filled[fits]] = token
        else:
            row = np.repeat(np.arange(rows), lengths)
            column = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths) + filled[row]
            fits = column < room
            tokens[row[fits], column[fits]] = texts[token].values[fits]
        filled = np.minimum(filled + lengths, room)
    tokens[np.arange(rows), filled] = END
    return torch.from_numpy(tokens)


class Prepare(Protocol):
    """Turns texts into what a tower's `forward` takes; see `rtd_plugin.training.plain.PlainTower.prepare`."""

    def __call__(
        self, tokens: Tensor, placeholder: int, subjects: Tensor, pseudo_tokens: int | None
    ) -> Any: ...


def make_noise(shape: Sequence[int], scale: float, seed: int) -> Tensor:
    """Draw s · u · ε, u ~ U(0, 1) one a row and ε ~ N(0, I) (RTD, section 3.2): the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    strength = torch.rand(shape[0], 1, generator=generator)
    return scale * strength * torch.randn(*shape, generator=generator)


@dataclass(frozen=True)
class BatchOrder:
    """The order in which triplets are visited: each epoch a new permutation, its incomplete last batch left out.

    Args:
        triplets: how many there are.
        batch_size: triplets a process and batch.
        shuffle: False for the order of the file, in every epoch.
        seed: of the permutations.
        rank, processes: this process and how many there are; each step they take batch_size × processes triplets.

    Raises:
        RTDError: there are fewer triplets than one batch of all processes needs.
    """

    triplets: int
    batch_size: int
    shuffle: bool
    seed: int
    rank: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        if self.triplets < self.batch_size * self.processes:
            raise RTDError(
                f"{self.triplets} triplets do not fill one batch of {self.batch_size} on {self.processes} process(es): "
                "set batch_size lower"
            )

    def rows(self, index: int) -> np.ndarray:
        """Return which triplets a batch has on this process, (batch_size,) int64; its index counts over all epochs."""
        size = self.batch_size * self.processes
        epoch, index = divmod(index, self.triplets // size)
        start = index * size + self.rank * self.batch_size
        positions = np.arange(start, start + self.batch_size)
        return permute(positions, self.triplets, stream_seed(self.seed, epoch)) if self.shuffle else positions


def permute(positions: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Return where a permutation of 0 … size-1 takes some positions, without computing the rest of it.

    A Feistel network permutes the integers of an even number of bits (Luby and Rackoff 1988); what it takes out of the
    range goes through it again until it is back in (Black and Rogaway 2002, cycle walking).
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    result = positions.astype(np.uint64)
    outside = np.ones(len(result), dtype=bool)
    while outside.any():
        left, right = result[outside] >> half, result[outside] & mask
        for key in _round_keys(seed):
            left, right = right, left ^ (mix_bits(right + key) & mask)
        result[outside] = (left << half) | right
        outside = result >= size
    return result.astype(np.int64)


@lru_cache(maxsize=4)
def _round_keys(seed: int) -> np.ndarray:
    return np.random.SeedSequence(seed).generate_state(FEISTEL_ROUNDS, np.uint64)


@lru_cache(maxsize=16)
def stream_seed(seed: int, *stream: int) -> int:
    """Return the seed of one of a run's random streams: unrelated for different streams and different seeds."""
    return int(np.random.SeedSequence(seed, spawn_key=stream).generate_state(1, np.uint64)[0])


def map_tensors(function: Callable[[Tensor], Tensor], value: AnyDataclass) -> AnyDataclass:
    """Apply a function to all tensors of a dataclass, also in dataclasses within it."""
    changes: dict[str, Any] = {}
    for field in fields(value):  # type: ignore[arg-type]  # a type variable cannot be bound to dataclasses
        content = getattr(value, field.name)
        if isinstance(content, Tensor):
            changes[field.name] = function(content)
        elif is_dataclass(content):
            changes[field.name] = map_tensors(function, content)
    return replace(value, **changes)  # type: ignore[type-var]

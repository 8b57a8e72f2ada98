"""Which triplets make which batch, and the batch as tokens.

Everything here is a function of the seed and the batch's number, so a run that resumes needs to know only how far it
came.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rtd_plugin.clip.tokens import pad
from rtd_plugin.contract.adapter import Adapter
from rtd_plugin.errors import RTDError
from rtd_plugin.triplets.interning import mix_bits
from rtd_plugin.triplets.token_store import TokenTriplet

FEISTEL_ROUNDS = 6


@dataclass(frozen=True)
class Batch:
    """B triplets as tokens, on the CPU; tokens are (B, L) int64, each with its own L, zeros after the end token.

    Attributes:
        references: reference captions, for the frozen encoder.
        targets: target captions, for the frozen encoder.
        queries: composed queries: the prompt with the condition, and a placeholder or the reference caption in it.
        unconditioned: the same without a condition.
        numbers: (B, 2) int64: of reference and target among the captions of the run; None if there is no run.
        features: (2B, D): what the frozen encoder gives for targets and references; None if that is not known yet.
    """

    references: Tensor
    targets: Tensor
    queries: Tensor
    unconditioned: Tensor
    numbers: Tensor | None = None
    features: Tensor | None = None


def make_batch(
    triplets: Sequence[TokenTriplet], adapter: Adapter, context_length: int, projected: bool = True
) -> Batch:
    """Put triplets' tokens into prompts.

    Args:
        triplets: B of them.
        adapter: whose prompts make the queries.
        context_length: of the text tower.
        projected: True for a placeholder in the queries; False puts the reference caption in its place, the plain
            concatenation of texts that the paper compares with.
    """
    references, conditions, targets, numbers = zip(*triplets, strict=True)
    subjects = [None] * len(triplets) if projected else references
    queries = [
        adapter.prompt.fill(subject, condition=condition)
        for subject, condition in zip(subjects, conditions, strict=True)
    ]
    unconditioned = [adapter.unconditioned_prompt.fill(subject) for subject in subjects]
    tokens = (pad(texts, context_length) for texts in (references, targets, queries, unconditioned))
    return Batch(*tokens, None if None in numbers else torch.tensor(numbers))


@dataclass(frozen=True)
class BatchOrder:
    """The order in which triplets are visited: each epoch a new permutation, its incomplete last batch left out.

    Args:
        triplets: how many there are.
        batch_size: triplets a process and batch.
        shuffle: False for the order of the file, in every epoch.
        seed: of the permutations.
        rank, processes: this process and how many there are; together they take batch_size × processes at a time.

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

    def indices(self, number: int) -> list[int]:
        """Which triplets batch `number`, counted from 0 over all epochs, has on this process."""
        together = self.batch_size * self.processes
        epoch, number = divmod(number, self.triplets // together)
        start = number * together + self.rank * self.batch_size
        places = np.arange(start, start + self.batch_size)
        return (permuted(places, self.triplets, stream_seed(self.seed, epoch)) if self.shuffle else places).tolist()


def permuted(places: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Where a permutation of 0 … size-1 takes each of some places, without the rest of it having to be there.

    A Feistel network permutes the numbers of an even number of bits (Luby and Rackoff 1988); what it takes out of the
    range goes through it again until it is back in (Black and Rogaway 2002, cycle walking).
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = np.random.SeedSequence(seed).generate_state(FEISTEL_ROUNDS, np.uint64)
    result = places.astype(np.uint64)
    outside = np.ones(len(result), dtype=bool)
    while outside.any():
        left, right = result[outside] >> half, result[outside] & mask
        for key in keys:
            left, right = right, left ^ (mix_bits(right + key) & mask)
        result[outside] = (left << half) | right
        outside = result >= size
    return result.astype(np.int64)


def stream_seed(seed: int, *stream: int) -> int:
    """The seed of one of a run's random streams: unrelated streams for different numbers and for different seeds."""
    return int(np.random.SeedSequence(seed, spawn_key=stream).generate_state(1, np.uint64)[0])

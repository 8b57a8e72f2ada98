"""Which triplets make which batch, and the batch as tokens.

Everything here is a function of the seed and the batch's number, so a run that resumes needs to know only how far it
came.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from rtd_plugin.adapter import Adapter
from rtd_plugin.clip.tokens import clean_caption, encode_text, pad
from rtd_plugin.errors import RTDError
from rtd_plugin.triplets.triplet import Triplet


@dataclass(frozen=True)
class Batch:
    """B triplets as tokens, on the CPU; each field (B, L) int64 with its own L, zeros after the end token.

    Attributes:
        references: reference captions, for the frozen encoder.
        targets: target captions, for the frozen encoder.
        queries: composed queries: the prompt with the condition, and a placeholder or the reference caption in it.
        unconditioned: the same without a condition.
    """

    references: Tensor
    targets: Tensor
    queries: Tensor
    unconditioned: Tensor


def make_batch(triplets: Sequence[Triplet], adapter: Adapter, context_length: int, projected: bool = True) -> Batch:
    """Clean and tokenise triplets.

    Args:
        triplets: B of them.
        adapter: whose prompts make the queries.
        context_length: of the text tower.
        projected: True for a placeholder in the queries; False puts the reference caption in its place, the plain
            concatenation of texts that the paper compares with.
    """
    references = [encode_text(clean_caption(triplet.reference)) for triplet in triplets]
    targets = [encode_text(clean_caption(triplet.target)) for triplet in triplets]
    subjects = [None] * len(triplets) if projected else references
    queries = [
        adapter.prompt.encode(subject, condition=triplet.condition)
        for triplet, subject in zip(triplets, subjects, strict=True)
    ]
    unconditioned = [adapter.unconditioned_prompt.encode(subject) for subject in subjects]
    return Batch(*(pad(texts, context_length) for texts in (references, targets, queries, unconditioned)))


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
        if not self.shuffle:
            return list(range(start, start + self.batch_size))
        return permutation(self.triplets, self.seed, epoch)[start : start + self.batch_size].tolist()


@lru_cache(maxsize=1)
def permutation(size: int, seed: int, epoch: int) -> Tensor:
    """The order of an epoch: (size,) int64."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(stream_seed(seed, epoch)))


def stream_seed(seed: int, *stream: int) -> int:
    """The seed of one of a run's random streams: unrelated streams for different numbers and for different seeds."""
    return int(np.random.SeedSequence(seed, spawn_key=stream).generate_state(1, np.uint64)[0])

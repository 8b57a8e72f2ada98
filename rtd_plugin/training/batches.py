"""Batches of triplets as tokens and noise, a step's input."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F

from rtd_plugin.clip.tokens import END, START, find_room
from rtd_plugin.contract.adapter import Adapter
from rtd_plugin.training.frozen import PlainFrozen
from rtd_plugin.training.order import NOISE, ORDER, WORD_NOISE, BatchOrder, stream_seed
from rtd_plugin.training.run import Run
from rtd_plugin.training.word_noise import replace_words
from rtd_plugin.triplets.ragged import Ragged
from rtd_plugin.triplets.token_store import TokenBatch

CONDITION, REFERENCE = -1, -2  # stand for a triplet's texts in a prompt

Prepare = Callable[[Tensor, int, Tensor, int | None], Any]
"""Prepares texts for a tower's `forward`; see `rtd_plugin.training.plain.PlainTower.prepare`."""


@dataclass(frozen=True, eq=False)
class Batch:
    """B triplets as tokens, (B, L) int64 with an L for each field, zeros after the end token.

    Attributes:
        references: reference captions, for the frozen encoder.
        targets: target captions, for the frozen encoder.
        queries: composed queries: the prompt with the condition, and a placeholder or the reference caption in it.
        unconditioned: the same without the condition.
        rows: (B,) int64, which of the run's triplets they are.
        noise: (B, D) fp32, to be added to the references' features.
        composed: what `stack_composed` returns, as `prepare` made it.
        packed_captions: the targets, then the references, if they were prepared too.
        reworded: as `queries`, in another wording of each request; None without `wording.consistency`.
        consistency: scalar in fp32, the weight of the distance between the two; None without it.
    """

    references: Tensor
    targets: Tensor
    queries: Tensor
    unconditioned: Tensor
    rows: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    noise: Tensor = field(default_factory=lambda: torch.empty(0))
    composed: Any = None
    packed_captions: Any = None
    reworded: Tensor | None = None
    consistency: Tensor | None = None


def make_batch(
    triplets: TokenBatch, adapter: Adapter, context_length: int, projected: bool = True, pseudo_tokens: int = 1
) -> Batch:
    """Put triplets' tokens into prompts.

    Args:
        triplets: B of them.
        adapter: whose prompts make the queries.
        context_length: of the text tower; a longer text keeps its first context_length - 2 tokens.
        projected: True for a placeholder in the queries; False puts the reference caption in its place, the plain
            concatenation of texts that the paper compares with.
        pseudo_tokens: number of pseudo tokens for the placeholder; queries leave room for them.
    """
    subject = None if projected else [REFERENCE]
    texts = {CONDITION: triplets.conditions, REFERENCE: triplets.references}
    prompt = adapter.prompt.fill(subject, condition=[CONDITION])
    unconditioned = adapter.unconditioned_prompt.fill(subject)
    room = find_room(prompt, adapter.prompt.placeholder_id, pseudo_tokens, context_length)
    return Batch(
        references=fill_captions(triplets.references, context_length),
        targets=fill_captions(triplets.targets, context_length),
        queries=fill_rows(prompt, texts, room),
        unconditioned=fill_rows(unconditioned, texts, room),
    )


def fill_captions(captions: Ragged, context_length: int) -> Tensor:
    """Return captions between start and end tokens, as `fill_rows` does."""
    return fill_rows([REFERENCE], {REFERENCE: captions}, context_length)


def fill_rows(template: Sequence[int], texts: dict[int, Ragged], context_length: int) -> Tensor:
    """Fill a template with each row's texts, between start and end tokens.

    Args:
        template: token ids; a negative one stands for the row's text of that key.
        texts: B texts per key.
        context_length: longest row, start and end included.

    Returns:
        (B, L) int64, L the longest row, zeros after the end token.
    """
    rows = len(next(iter(texts.values())).lengths)
    pieces = [np.full(rows, 1) if token >= 0 else texts[token].lengths for token in template]
    filled = np.ones(rows, np.int64)  # number of filled columns, with the start token
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


def make_noise(shape: Sequence[int], scale: float, seed: int) -> Tensor:
    """Draw s · u · ε, u ~ U(0, 1) for each row and ε ~ N(0, I) (RTD, section 3.2): the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    strength = torch.rand(shape[0], 1, generator=generator)
    return scale * strength * torch.randn(*shape, generator=generator)


def order_batches(run: Run, accelerator: Accelerator) -> BatchOrder:
    """Return which triplets a run's batches have on the processes that it began with.

    Raises:
        RTDError: there are too few triplets for one batch of all processes.
    """
    recipe = run.recipe
    return BatchOrder(
        len(run.triplets),
        recipe.batch_size,
        recipe.shuffle,
        stream_seed(recipe.seed, ORDER),
        run.began_with or accelerator.num_processes,
    )


class RunBatches:
    """The batches of a run on one process, by their index, counted over all epochs.

    Args:
        run: the run with the triplets.
        accelerator: index and number of processes. A run that resumes with another number of them has the same batches
            in each step.
        prepare: prepares texts for ψ.
        frozen: its φ determines the number of pseudo tokens for a feature.

    Raises:
        RTDError: there are too few triplets for one batch of all processes.
    """

    def __init__(self, run: Run, accelerator: Accelerator, prepare: Prepare, frozen: PlainFrozen):
        self._run, self._prepare = run, prepare
        self._rank, self._processes = accelerator.process_index, accelerator.num_processes
        self._projected = run.recipe.objective.concatenation == "projected"
        self._queries, self._pseudo_tokens = 1, None  # of plain texts
        if self._projected:
            self._queries, self._pseudo_tokens = frozen.count_pseudo_tokens()
        self._order = order_batches(run, accelerator)

    def __getitem__(self, index: int) -> Batch:
        run, settings = self._run, self._run.recipe.objective
        step = index // run.count_batches(self._processes)
        index, rank = divmod(index * self._processes + self._rank, self._order.processes)  # where the run began
        rows = self._order.rows(index, rank)
        batch = self._read(rows, index, rank)
        if run.recipe.wording.consistency:
            # It grows with the steps: from the first one on, it teaches the encoder to ignore conditions.
            weight = run.recipe.wording.consistency * (step + 1) / run.recipe.steps
            reworded = self._read(rows, index, rank, later=1).queries
            batch = replace(batch, reworded=reworded, consistency=torch.tensor(weight))
        tokens, subjects = stack_composed(batch, settings.hard_negatives, self._queries)
        seed = stream_seed(run.recipe.seed, NOISE, index, rank)
        return replace(
            batch,
            rows=torch.from_numpy(rows),
            noise=make_noise((len(batch.targets), run.tower.features), settings.noise_scale, seed),
            composed=self._prepare(tokens, run.adapter.prompt.placeholder_id, subjects, self._pseudo_tokens),
        )

    def _read(self, rows: np.ndarray, index: int, rank: int, later: int = 0) -> Batch:
        """Return triplets in prompts, in the wordings of an epoch or those that come later, with word noise."""
        run, share = self._run, self._run.recipe.wording.noise
        triplets = run.triplets.gather(rows, self._order.find_epoch(index), later)
        if share:
            seed = stream_seed(run.recipe.seed, WORD_NOISE, index, rank, later)
            vocabulary, placeholder = len(run.tower.token_embedding.weight), run.adapter.prompt.placeholder_id
            triplets = replace_words(triplets, share, seed, vocabulary, placeholder)
        return make_batch(triplets, run.adapter, run.tower.context_length, self._projected, self._pseudo_tokens or 1)


def stack_composed(batch: Batch, hard_negatives: bool, queries: int = 1) -> tuple[Tensor, Tensor]:
    """Return the texts that ψ encodes, and for each the row of its pseudo tokens.

    Args:
        batch: B triplets.
        hard_negatives: whether the unconditioned queries follow the queries. The reworded queries, if the batch has
            them, come last: T texts, B to 3B.
        queries: how many composed queries the method averages, m: the T texts are repeated for each.

    Returns:
        (m · T, L) tokens and (m · T,) int64, rows of m · B.
    """
    texts = [batch.queries]
    if hard_negatives:
        texts.append(batch.unconditioned)
    if batch.reworded is not None:
        texts.append(batch.reworded)
    tokens, subjects = stack_tokens(*texts), torch.arange(len(batch.queries)).repeat(len(texts))
    first_rows = torch.arange(queries) * len(batch.queries)
    return tokens.repeat(queries, 1), (first_rows.unsqueeze(1) + subjects).flatten()


def stack_tokens(*batches: Tensor) -> Tensor:
    """Stack token batches (B, L), each with its own B and L, into (sum of B, longest L), zeros after the end tokens."""
    length = max(tokens.shape[1] for tokens in batches)
    return torch.cat([F.pad(tokens, (0, length - tokens.shape[1])) for tokens in batches])


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply a function to a tensor, or to all tensors of a dataclass."""
    if isinstance(value, Tensor):
        return function(value)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    return replace(
        value, **{attribute.name: map_tensors(function, getattr(value, attribute.name)) for attribute in fields(value)}
    )


def map_device_tensors(function: Callable[[Tensor], Tensor], batch: Batch) -> Batch:
    """Apply a function to the tensors that a step needs on the device; tokens stay on the CPU."""
    names = ("noise", "composed", "packed_captions", "consistency")
    return replace(batch, **{name: map_tensors(function, getattr(batch, name)) for name in names})


def list_device_tensors(batch: Batch) -> list[Tensor]:
    """Return the tensors that a step needs on the device, always in the same order."""
    tensors: list[Tensor] = []

    def collect(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor

    map_device_tensors(collect, batch)
    return tensors

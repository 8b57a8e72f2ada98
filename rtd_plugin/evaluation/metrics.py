"""Ranks, recall and confidence intervals of retrieval; torch for the ranks, exact throughout."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from rtd_plugin.errors import RTDError

_BLOCK = 2**22  # scores or draws held at a time


def target_ranks(queries: Tensor, gallery: Tensor, targets: Tensor, excluded: Tensor | None = None) -> Tensor:
    """Rank of each query's target among the gallery by dot product; a tie counts against the target.

    Args:
        queries: (Q, D) floating point features, normalised where cosine similarity is meant; scored in float32.
        gallery: (N, D) features alike, on the same device as all other tensors.
        targets: (Q,) int64 rows of the gallery.
        excluded: (Q,) int64 row of the gallery that is taken out of each ranking, -1 for none.

    Returns:
        (Q,) int64: 1 + the number of other candidates that score at least as high as the target.

    Raises:
        RTDError: a feature is not a number, an index lies outside the gallery, or a target is excluded.
    """
    excluded = torch.full_like(targets, -1) if excluded is None else excluded
    _check_indices(targets, queries, gallery, "target")
    _check_indices(excluded, queries, gallery, "excluded image", lowest=-1)
    if (wrong := excluded == targets).any():
        raise RTDError(f"the target of query {_first(wrong)} is excluded from its ranking; check the benchmark's files")
    return _ranks(queries, gallery, targets, excluded[:, None], listed_compete=False)


def subset_ranks(queries: Tensor, gallery: Tensor, targets: Tensor, subsets: Sequence[Sequence[int]]) -> Tensor:
    """Rank of each query's target among the candidates of its subset alone, as for CIRR's subset recall.

    Args:
        queries: (Q, D) features, as for `target_ranks`.
        gallery: (N, D) features alike.
        targets: (Q,) int64 rows of the gallery.
        subsets: Q collections of gallery rows, each with its target; they may differ in size.

    Returns:
        (Q,) int64: 1 + the number of other candidates that score at least as high as the target.

    Raises:
        RTDError: as for `target_ranks`, or a subset lacks its target.
    """
    _check_indices(targets, queries, gallery, "target")
    if len(subsets) != len(queries):
        raise RTDError(f"{len(queries)} queries need as many subsets, not {len(subsets)}; check the benchmark's files")
    largest = max(map(len, subsets), default=0)
    rows = []
    for query, (subset, target) in enumerate(zip(subsets, targets.tolist(), strict=True)):
        if target not in subset:
            raise RTDError(f"the subset of query {query} lacks its target; check the benchmark's files")
        rows.append([*subset, *[target] * (largest - len(subset))])  # a target does not compete with itself
    listed = torch.tensor(rows, dtype=torch.int64, device=targets.device).reshape(len(queries), largest)
    _check_indices(listed, queries, gallery, "subset")
    return _ranks(queries, gallery, targets, listed, listed_compete=True)


def recall_at(ranks: Tensor, k: int) -> float:
    """Share of queries whose target is among the first k, in percent, from (Q,) 1-based ranks."""
    if not len(ranks):
        raise RTDError("there is no recall without queries; check the benchmark's files")
    return 100 * (ranks <= k).double().mean().item()


def bootstrap_interval(
    hits: Tensor, *, other: Tensor | None = None, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap over queries of a mean, or of a paired difference of means (Efron and Tibshirani, 1993).

    Args:
        hits: (Q,) one figure a query, such as 1 where its target was found and 0 elsewhere.
        other: (Q,) figures of the same queries by another system; the interval is that of mean(hits) - mean(other).
        resamples: how many times Q queries are drawn with replacement.
        level: share of the resampled means within the interval.
        seed: equal seeds give equal intervals; the global random state is left alone.

    Returns:
        Lower and upper end, in percent (of figures of 0 to 1).

    Raises:
        RTDError: there is no query, a figure is not a number, or the two systems differ in length.
    """
    if other is not None and other.shape != hits.shape:
        raise RTDError(f"a paired interval needs the same queries, not {len(hits)} and {len(other)}")
    figures = hits.double() if other is None else hits.double() - other.double()
    if not len(figures) or not figures.isfinite().all():
        raise RTDError("a confidence interval needs at least one query, and a number for each")
    # Queries with equal figures are interchangeable: drawing how often each distinct figure occurs is the same
    # bootstrap, and hits have two of them or, paired, three.
    values, counts = (column.cpu().numpy() for column in figures.unique(return_counts=True))
    random = np.random.default_rng(seed)
    step = max(1, _BLOCK // len(values))
    sizes = (min(step, resamples - start) for start in range(0, resamples, step))
    draws = (random.multinomial(len(figures), counts / len(figures), size) @ values for size in sizes)
    means = np.concatenate(list(draws)) / len(figures)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return 100 * float(low), 100 * float(high)


def _ranks(queries: Tensor, gallery: Tensor, targets: Tensor, listed: Tensor, *, listed_compete: bool) -> Tensor:
    """(Q,) ranks among the candidates (Q, M) that are listed, or else among all that are not; -1 lists nothing."""
    ranks = torch.empty_like(targets)
    for rows, scores in _score_blocks(queries, gallery):
        target = targets[rows, None]
        ahead = scores >= scores.gather(1, target)
        marks = torch.zeros(len(ahead), 1 + len(gallery), dtype=torch.bool, device=ahead.device)
        marks = marks.scatter_(1, listed[rows] + 1, True)[:, 1:]  # the first column took the -1
        ahead &= marks if listed_compete else ~marks
        ranks[rows] = 1 + ahead.scatter_(1, target, False).sum(1)
    return ranks


def _score_blocks(queries: Tensor, gallery: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Slices of the queries, each with its (B, N) float32 scores against the whole gallery."""
    for features, what in ((queries, "query"), (gallery, "gallery image")):
        if (wrong := ~features.isfinite().all(1)).any():
            raise RTDError(f"a feature of {what} {_first(wrong)} is not a number or infinite; check the weights")
    # A matrix product rounds equal columns differently, by where in the matrix they stand: score equal images once,
    # so that they tie exactly.
    distinct, place = gallery.float().unique(dim=0, return_inverse=True)
    step = max(1, _BLOCK // max(1, len(gallery)))
    for start in range(0, len(queries), step):
        rows = slice(start, start + step)
        yield rows, (queries[rows].float() @ distinct.T).index_select(1, place)


def _check_indices(indices: Tensor, queries: Tensor, gallery: Tensor, what: str, *, lowest: int = 0) -> None:
    if len(indices) != len(queries):
        raise RTDError(f"{len(queries)} queries need as many {what}s, not {len(indices)}; check the benchmark's files")
    if (wrong := (indices < lowest) | (indices >= len(gallery))).any():
        index = indices[wrong][0].item()
        raise RTDError(f"{what}: no index {index} in a gallery of {len(gallery)} images; check the benchmark's files")


def _first(wrong: Tensor) -> int:
    """Index of the first True."""
    return int(wrong.nonzero()[0])

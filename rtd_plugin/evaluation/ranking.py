"""Exact ranking in blocks of queries: the rank of each target, and the images at the top."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from rtd_plugin.errors import RTDError

BLOCK = 2**22  # scores held at once
_NO_CANDIDATE = float("-inf")
_REMEDY = "check the benchmark's files"


@dataclass(frozen=True)
class Rankings:
    """Rankings of Q queries.

    Attributes:
        ranks: (Q, T) int64 ranks from 1 of each query's targets, ascending; 0 pads queries with fewer than T.
        first: (Q,) int64 rank of the first target in each query's list; 0 without targets.
        top: (Q, K) int64 gallery indices, best first; -1 pads queries with fewer candidates than K.
        scores: (Q, K) float32 scores of `top`.
    """

    ranks: Tensor
    first: Tensor
    top: Tensor
    scores: Tensor


class Gallery:
    """Features that queries are ranked against.

    Args:
        features: (N, D) floating point; normalised for cosine similarity. Scores are computed in float32.

    Raises:
        RTDError: a feature is not finite.
    """

    def __init__(self, features: Tensor):
        _check_finite(features, "gallery image")
        self.size = len(features)
        # A matrix product rounds equal columns differently, depending on their position: score equal images once, so
        # that they tie exactly.
        features = features.float().contiguous()
        columns: dict[bytes, int] = {}
        digests = (blake2b(row, digest_size=16).digest() for row in features.cpu().numpy())
        column_of = torch.tensor([columns.setdefault(digest, len(columns)) for digest in digests], dtype=torch.int64)
        self._column_of = None  # of each image in `_distinct`, if images are equal
        if len(columns) < self.size:
            first = column_of.new_full((len(columns),), self.size)
            first.scatter_reduce_(0, column_of, torch.arange(self.size), "amin")
            self._column_of = column_of.to(features.device)
            features = features[first.to(features.device)]
        self._distinct = features

    def rank(
        self,
        queries: Tensor,
        targets: Sequence[Sequence[int]],
        *,
        excluded: Sequence[int] | None = None,
        candidates: Sequence[Sequence[int]] | None = None,
        depth: int = 0,
    ) -> Rankings:
        """Rank the gallery for each query by dot product; a tie counts against the target.

        Among equal scores, images that are not targets come first, by index; then targets, the first target last.

        Args:
            queries: (Q, D) features like the gallery's, on the same device.
            targets: gallery indices of each query's targets; empty if targets are not known.
            excluded: one gallery index for each query that is left out of its ranking; -1 for none.
            candidates: gallery indices that are ranked for each query; None or empty for all.
            depth: how many images at the top to return, K.

        Raises:
            RTDError: there are no queries, a feature is not finite, an index lies outside the gallery, or a target is
                not a candidate.
        """
        if not len(queries):
            raise RTDError(f"no queries; {_REMEDY}")
        _check_finite(queries, "query")
        for indices, name in ((targets, "target"), (candidates, "candidate")):
            if indices is not None:
                self._check_indices(indices, queries, name)
        if excluded is not None:
            self._check_indices([[index] for index in excluded], queries, "excluded image", lowest=-1)
        depth = min(depth, self.size)
        shared: dict[int, Tensor] = {}  # one tensor for candidates that many queries share, by id
        blocks = []
        for block in self._split(len(queries)):
            scores = self._score(queries[block].float())
            if candidates is not None:
                self._mask_others(scores, candidates[block], shared)
            if excluded is not None:
                columns = torch.tensor(excluded[block], device=scores.device)
                rows = (columns >= 0).nonzero()[:, 0]
                scores[rows, columns[rows]] = _NO_CANDIDATE
            blocks.append(_rank(scores, targets[block], depth, block.start))
        width = max(block.ranks.shape[1] for block in blocks)
        return Rankings(
            torch.cat([F.pad(block.ranks, (0, width - block.ranks.shape[1])) for block in blocks]),
            torch.cat([block.first for block in blocks]),
            torch.cat([block.top for block in blocks]),
            torch.cat([block.scores for block in blocks]),
        )

    def _split(self, queries: int) -> Iterator[slice]:
        step = max(1, BLOCK // max(1, self.size))
        return (slice(start, min(start + step, queries)) for start in range(0, queries, step))

    def _score(self, queries: Tensor) -> Tensor:
        scores = queries @ self._distinct.T
        return scores if self._column_of is None else scores.index_select(1, self._column_of)

    def _mask_others(self, scores: Tensor, candidates: Sequence[Sequence[int]], shared: dict[int, Tensor]) -> None:
        """Leave each query only its candidates."""
        for indices in candidates:
            if id(indices) not in shared:
                shared[id(indices)] = torch.tensor(indices, dtype=torch.int64, device=scores.device)
        columns = [shared[id(indices)] for indices in candidates]
        lengths = torch.tensor([len(each) for each in columns], device=scores.device)
        keep = torch.zeros_like(scores, dtype=torch.bool)
        rows = torch.arange(len(columns), device=scores.device).repeat_interleave(lengths)
        keep[rows, torch.cat(columns)] = True
        keep[lengths == 0] = True
        scores.masked_fill_(~keep, _NO_CANDIDATE)

    def _check_indices(self, indices: Sequence[Sequence[int]], queries: Tensor, name: str, lowest: int = 0) -> None:
        if len(indices) != len(queries):
            raise RTDError(f"{len(queries)} queries need the {name}s of each, not of {len(indices)}; {_REMEDY}")
        checked: set[int] = set()  # ids of collections that many queries share
        for collection in indices:
            if id(collection) in checked:
                continue
            checked.add(id(collection))
            for index in collection:
                if not lowest <= index < self.size:
                    raise RTDError(f"{name}: no index {index} in a gallery of {self.size} images; {_REMEDY}")


def _rank(scores: Tensor, targets: Sequence[Sequence[int]], depth: int, start: int) -> Rankings:
    """Rank one block of queries, the first of which has the index `start`; scores (B, N)."""
    target_rows = [torch.tensor(tuple(indices) or (-1,), dtype=torch.int64) for indices in targets]
    padded = pad_sequence(target_rows, batch_first=True, padding_value=-1).to(scores.device)  # (B, T)
    is_target, columns = padded >= 0, padded.clamp(min=0)
    tie_order = torch.zeros_like(scores, dtype=torch.uint8)  # 0: not a target, 1: a target, 2: the first target
    for position in reversed(range(padded.shape[1])):
        rows = is_target[:, position].nonzero()[:, 0]
        tie_order[rows, columns[rows, position]] = 2 if position == 0 else 1
    target_scores = scores.gather(1, columns)
    if (lost := is_target & target_scores.isneginf()).any():
        row, position = (int(index) for index in lost.nonzero()[0])
        raise RTDError(
            f"a target of query {start + row} (image {int(padded[row, position])} of the gallery) is excluded from "
            f"its ranking or not a candidate; {_REMEDY}"
        )
    rivals = tie_order == 0
    # (B, T): images at least as good as the target, without other targets
    ahead = torch.stack([(rivals & (scores >= score[:, None])).sum(1) for score in target_scores.T], dim=1)
    order = target_scores.masked_fill(~is_target, _NO_CANDIDATE).argsort(dim=1, descending=True, stable=True)
    targets_up_to = torch.arange(1, padded.shape[1] + 1, device=scores.device)
    ranks = (ahead.gather(1, order) + targets_up_to).masked_fill(~is_target.gather(1, order), 0)
    targets_ahead = (is_target[:, 1:] & (target_scores[:, 1:] >= target_scores[:, :1])).sum(1)
    first = (1 + ahead[:, 0] + targets_ahead).masked_fill(~is_target[:, 0], 0)
    top, top_scores = _select_top(scores, tie_order, depth)
    return Rankings(ranks.cpu(), first.cpu(), top.cpu(), top_scores.cpu())


def _select_top(scores: Tensor, tie_order: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """Return the best `depth` columns of each row and their scores; -1 pads rows with fewer candidates."""
    count = min(depth + 1, scores.shape[1])
    values, top = scores.topk(count, dim=1)
    tied = ((values[:, 1:] == values[:, :-1]) & ~values[:, 1:].isneginf()).any(1) if count > 1 else None
    values, top = values[:, :depth], top[:, :depth]
    if tied is not None and depth:
        for row in tied.nonzero()[:, 0].tolist():  # few rows: distinct images hardly ever tie
            columns = (scores[row] >= values[row, -1]).nonzero()[:, 0]
            columns = columns[tie_order[row, columns].argsort(stable=True)]
            top[row] = columns[scores[row, columns].argsort(descending=True, stable=True)][:depth]
            values[row] = scores[row, top[row]]
    return top.masked_fill(values.isneginf(), -1), values


def _check_finite(features: Tensor, name: str) -> None:
    if (not_finite := ~features.isfinite().all(1)).any():
        raise RTDError(f"a feature of {name} {int(not_finite.nonzero()[0])} is not finite; check the weights")

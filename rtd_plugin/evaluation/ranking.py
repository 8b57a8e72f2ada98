"""Exact ranking by blocks: where each target comes, and what comes first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from rtd_plugin.errors import RTDError

BLOCK = 2**22  # scores held at a time
_NO_CANDIDATE = float("-inf")
_REMEDY = "check the benchmark's files"


@dataclass(frozen=True)
class Rankings:
    """Rankings of Q queries.

    Attributes:
        ranks: (Q, T) int64 ranks, from 1, of each query's targets, best first; 0 where a query has fewer than T.
        first: (Q,) int64 rank of the first target that each query was given; 0 without targets.
        top: (Q, K) int64 rows of the gallery, best first; -1 where a query has fewer candidates than K.
        scores: (Q, K) float32 scores of those.
    """

    ranks: Tensor
    first: Tensor
    top: Tensor
    scores: Tensor


class Gallery:
    """Features that queries are ranked against.

    Args:
        features: (N, D) floating point, normalised where cosine similarity is meant; scored in float32.

    Raises:
        RTDError: a feature is not a number.
    """

    def __init__(self, features: Tensor):
        _check_finite(features, "gallery image")
        self.size = len(features)
        # A matrix product rounds equal columns differently, by where in the matrix they stand: score equal images
        # once, so that they tie exactly.
        features = features.float().contiguous()
        numbers: dict[bytes, int] = {}
        digests = (blake2b(row, digest_size=16).digest() for row in features.cpu().numpy())
        place = torch.tensor([numbers.setdefault(digest, len(numbers)) for digest in digests], dtype=torch.int64)
        self._place = None
        if len(numbers) < self.size:
            first = place.new_full((len(numbers),), self.size).scatter_reduce(0, place, torch.arange(self.size), "amin")
            self._place = place.to(features.device)
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

        Among equal scores the order is: images that are no target, by their row; then targets, the first one last.

        Args:
            queries: (Q, D) features as the gallery's, on the same device.
            targets: Q collections of gallery rows; empty ones where targets are not known.
            excluded: Q gallery rows, each taken out of its query's ranking; -1 for none.
            candidates: Q collections of the gallery rows that are ranked; None or an empty one for all.
            depth: how many images at the top to give, K.

        Raises:
            RTDError: there are no queries, a feature is not a number, a row lies outside the gallery, or a target is
                no candidate.
        """
        if not len(queries):
            raise RTDError(f"there are no queries; {_REMEDY}")
        _check_finite(queries, "query")
        for rows, what in ((targets, "target"), (candidates, "candidate")):
            if rows is not None:
                self._check_rows(rows, queries, what)
        if excluded is not None:
            self._check_rows([[row] for row in excluded], queries, "excluded image", lowest=-1)
        depth = min(depth, self.size)
        listed: dict[int, Tensor] = {}  # of the candidates that many queries share, one tensor
        parts = []
        for block in self._blocks(len(queries)):
            scores = self._scores(queries[block].float())
            if candidates is not None:
                self._keep(scores, candidates[block], listed)
            if excluded is not None:
                out = torch.tensor(excluded[block], device=scores.device)
                some = out >= 0
                scores[some.nonzero()[:, 0], out[some]] = _NO_CANDIDATE
            parts.append(_rank(scores, targets[block], depth, block.start))
        width = max(part.ranks.shape[1] for part in parts)
        ranks = [F.pad(part.ranks, (0, width - part.ranks.shape[1])) for part in parts]
        return Rankings(
            torch.cat(ranks),
            torch.cat([part.first for part in parts]),
            torch.cat([part.top for part in parts]),
            torch.cat([part.scores for part in parts]),
        )

    def _blocks(self, queries: int) -> Iterator[slice]:
        step = max(1, BLOCK // max(1, self.size))
        return (slice(start, min(start + step, queries)) for start in range(0, queries, step))

    def _scores(self, queries: Tensor) -> Tensor:
        scores = queries @ self._distinct.T
        return scores if self._place is None else scores.index_select(1, self._place)

    def _keep(self, scores: Tensor, candidates: Sequence[Sequence[int]], listed: dict[int, Tensor]) -> None:
        """Leave each query its candidates alone."""
        for rows in candidates:
            if id(rows) not in listed:
                listed[id(rows)] = torch.tensor(rows, dtype=torch.int64, device=scores.device)
        columns = [listed[id(rows)] for rows in candidates]
        lengths = torch.tensor([len(rows) for rows in columns], device=scores.device)
        keep = torch.zeros_like(scores, dtype=torch.bool)
        numbers = torch.arange(len(columns), device=scores.device).repeat_interleave(lengths)
        keep[numbers, torch.cat(columns)] = True
        keep[lengths == 0] = True
        scores.masked_fill_(~keep, _NO_CANDIDATE)

    def _check_rows(self, rows: Sequence[Sequence[int]], queries: Tensor, what: str, lowest: int = 0) -> None:
        if len(rows) != len(queries):
            raise RTDError(f"{len(queries)} queries need the {what}s of each, not of {len(rows)}; {_REMEDY}")
        seen: set[int] = set()
        for each in rows:
            if id(each) in seen:
                continue
            seen.add(id(each))
            for row in each:
                if not lowest <= row < self.size:
                    raise RTDError(f"{what}: no index {row} in a gallery of {self.size} images; {_REMEDY}")


def _rank(scores: Tensor, targets: Sequence[Sequence[int]], depth: int, start: int) -> Rankings:
    """Rankings of one block of queries, the first of which is number `start`; scores (B, N)."""
    rows = [torch.tensor(tuple(each) or (-1,), dtype=torch.int64) for each in targets]
    padded = pad_sequence(rows, batch_first=True, padding_value=-1).to(scores.device)  # (B, T)
    given, places = padded >= 0, padded.clamp(min=0)
    kind = torch.zeros_like(scores, dtype=torch.uint8)  # 0 no target, 1 a target, 2 the first one
    for column in reversed(range(padded.shape[1])):
        query = given[:, column].nonzero()[:, 0]
        kind[query, places[query, column]] = 2 if column == 0 else 1
    reached = scores.gather(1, places)
    if (lost := given & reached.isneginf()).any():
        number, column = (int(index) for index in lost.nonzero()[0])
        raise RTDError(
            f"a target of query {start + number} (image {int(padded[number, column])} of the gallery) is excluded from "
            f"its ranking or no candidate; {_REMEDY}"
        )
    rivals = kind == 0
    ahead = [(rivals & (scores >= score[:, None])).sum(1) for score in reached.T]
    ahead = torch.stack(ahead, dim=1)  # (B, T): images at least as good as the target, but for other targets
    order = reached.masked_fill(~given, _NO_CANDIDATE).argsort(dim=1, descending=True, stable=True)
    position = torch.arange(1, padded.shape[1] + 1, device=scores.device)
    ranks = (ahead.gather(1, order) + position).masked_fill(~given.gather(1, order), 0)
    others = (given[:, 1:] & (reached[:, 1:] >= reached[:, :1])).sum(1)
    first = (1 + ahead[:, 0] + others).masked_fill(~given[:, 0], 0)
    top, values = _top(scores, kind, depth)
    return Rankings(ranks.cpu(), first.cpu(), top.cpu(), values.cpu())


def _top(scores: Tensor, kind: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """The best `depth` columns of each row and their scores; -1 for what is no candidate."""
    more = min(depth + 1, scores.shape[1])
    values, top = scores.topk(more, dim=1)
    tied = ((values[:, 1:] == values[:, :-1]) & ~values[:, 1:].isneginf()).any(1) if more > 1 else None
    values, top = values[:, :depth], top[:, :depth]
    if tied is not None and depth:
        for row in tied.nonzero()[:, 0].tolist():  # few: distinct images hardly ever tie
            among = (scores[row] >= values[row, -1]).nonzero()[:, 0]
            among = among[kind[row, among].argsort(stable=True)]
            top[row] = among[scores[row, among].argsort(descending=True, stable=True)][:depth]
            values[row] = scores[row, top[row]]
    return top.masked_fill(values.isneginf(), -1), values


def _check_finite(features: Tensor, what: str) -> None:
    if (wrong := ~features.isfinite().all(1)).any():
        raise RTDError(f"a feature of {what} {int(wrong.nonzero()[0])} is not a number or infinite; check the weights")

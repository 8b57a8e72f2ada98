"""Exact ranking in blocks of queries and of images: the rank of each target, and the images at the top."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from rtd_plugin.errors import RTDError

QUERIES = 1024  # ranked together
BLOCK = 2**22  # scores, or numbers of features, held at once on a CPU
LARGEST_BLOCK = 2**28  # on a GPU, if a 32nd of its free bytes is as much
IN_MEMORY = 2**28  # bytes of features that a CPU keeps in memory; a GPU a quarter of what is free
_NO_CANDIDATE = float("-inf")


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


class Features(Protocol):
    """Features (N, D) that need not be in memory: the interface of a tensor that `Gallery` uses."""

    shape: Any
    device: torch.device

    def __getitem__(self, rows: Any, /) -> Tensor:
        """Return the rows of a slice, or of a tensor of indices, on `device`."""


class NormalizedFeatures:
    """Features of length 1, computed where and whenever they are asked for.

    Args:
        features: (N, D) of any length.
        size: how many of them, from the first.
        device: where they are needed.
    """

    def __init__(self, features: Tensor | Features, size: int, device: torch.device):
        self.shape, self.device = (size, int(features.shape[1])), device
        self._features = features

    def __getitem__(self, rows: Any) -> Tensor:
        if isinstance(rows, slice):
            rows = slice(*rows.indices(self.shape[0]))
        return F.normalize(self._features[rows if isinstance(rows, slice) else rows.cpu()], dim=-1).to(self.device)


class Gallery:
    """Features that queries are ranked against, read block by block: ranking needs no memory for all of them.

    Args:
        features: (N, D) floating point: a tensor or a reader of a file; normalised for cosine similarity. Scores are
            computed in float32.

    Raises:
        RTDError: a feature is not finite.
    """

    def __init__(self, features: Tensor | Features):
        self.size = int(features.shape[0])
        self._features = features
        self._block = _choose_block(features.device)
        # A matrix product rounds equal images differently, depending on their position. All copies of an image get the
        # score of the first, so that they tie exactly.
        self._copies, self._originals = self._find_copies()

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
            targets: distinct gallery indices of each query's targets, all of them ranked; empty if they are not known.
            excluded: one gallery index for each query that is left out of its ranking; -1 for none.
            candidates: gallery indices that are ranked for each query; None or empty for all.
            depth: how many images at the top to return, K.

        Raises:
            RTDError: a query's feature is not finite.
        """
        _check_finite(queries, "query", 0)
        depth = min(depth, self.size)
        blocks = []
        for block in _split(len(queries), QUERIES):
            masks = []
            if candidates is not None:
                masks.append(_mask_others(candidates[block], queries.device))
            if excluded is not None:
                masks.append(_mask_excluded(excluded[block], queries.device))
            blocks.append(self._rank_block(queries[block].float(), targets[block], masks, depth))
        width = max(block.ranks.shape[1] for block in blocks)
        return Rankings(
            torch.cat([F.pad(block.ranks, (0, width - block.ranks.shape[1])) for block in blocks]),
            torch.cat([block.first for block in blocks]),
            torch.cat([block.top for block in blocks]),
            torch.cat([block.scores for block in blocks]),
        )

    def _rank_block(
        self,
        queries: Tensor,
        targets: Sequence[Sequence[int]],
        masks: Sequence[Callable[[Tensor, slice], None]],
        depth: int,
    ) -> Rankings:
        rows = [torch.tensor(tuple(indices) or (-1,), dtype=torch.int64) for indices in targets]
        padded = pad_sequence(rows, batch_first=True, padding_value=-1).to(queries.device)  # (B, T)
        is_target = padded >= 0
        target_originals = self._find_originals(padded.clamp(min=0))
        shared = torch.cat([self._originals, target_originals.flatten()]).unique()  # images scored before all others
        shared_scores = queries @ self._features[shared].float().T
        target_scores = shared_scores.gather(1, torch.searchsorted(shared, target_originals))
        columns_of_copies = torch.searchsorted(shared, self._originals)  # in `shared_scores`
        ahead = torch.zeros_like(padded)  # (B, T): images at least as good as the target
        top, top_scores = padded[:, :0], queries[:, :0]
        for chunk in _split(self.size, max(1, self._block // max(queries.shape))):
            scores = queries @ self._features[chunk].float().T
            inside = _find_rows(shared, chunk)
            scores[:, shared[inside] - chunk.start] = shared_scores[:, inside]
            inside = _find_rows(self._copies, chunk)
            scores[:, self._copies[inside] - chunk.start] = shared_scores[:, columns_of_copies[inside]]
            for mask in masks:
                mask(scores, chunk)
            ahead += torch.stack([(scores >= score[:, None]).count_nonzero(1) for score in target_scores.T], dim=1)
            if depth:
                indices = torch.arange(chunk.start, chunk.stop, device=queries.device)
                if top.shape[1] == depth:  # few images are as good as the last of any query's best so far
                    is_good = (scores >= top_scores[:, -1:]).any(0)
                    scores, indices = scores[:, is_good], indices[is_good]
                columns = _find_top(scores, indices, padded, depth)
                top = torch.cat([top, indices[columns]], dim=1)
                top_scores = torch.cat([top_scores, scores.gather(1, columns)], dim=1)
                order = _sort_columns(top_scores, _find_tie_order(top, padded))[:, :depth]
                top, top_scores = top.gather(1, order), top_scores.gather(1, order)

        best_first = target_scores.masked_fill(~is_target, _NO_CANDIDATE).argsort(dim=1, descending=True, stable=True)
        rivals = is_target[:, None] & (target_scores[:, None] >= target_scores[..., None])  # (B, T, T): other targets
        ahead -= rivals.sum(2)
        ranks = ahead.gather(1, best_first) + torch.arange(1, padded.shape[1] + 1, device=queries.device)
        return Rankings(
            ranks.masked_fill(~is_target.gather(1, best_first), 0).cpu(),
            (ahead[:, 0] + rivals[:, 0].sum(1)).masked_fill(~is_target[:, 0], 0).cpu(),
            top.masked_fill(top_scores.isneginf(), -1).cpu(),
            top_scores.cpu(),
        )

    def _find_originals(self, indices: Tensor) -> Tensor:
        """Return the index of the first image with the features of each of some images."""
        if not len(self._copies):
            return indices
        rows = torch.searchsorted(self._copies, indices).clamp(max=len(self._copies) - 1)
        return torch.where(self._copies[rows] == indices, self._originals[rows], indices)

    def _find_copies(self) -> tuple[Tensor, Tensor]:
        """Return the indices of images that have the features of an earlier one, ascending, and those of the first."""
        features, device = self._features, self._features.device
        generator = torch.Generator().manual_seed(0)
        factors = torch.randint(2**62, (features.shape[1],), generator=generator).to(device) * 2 + 1
        hashes = torch.empty(self.size, dtype=torch.int64, device=device)
        chunks = list(_split(self.size, max(1, self._block // features.shape[1])))
        for chunk in chunks:
            rows = features[chunk]
            _check_finite(rows, "gallery image", chunk.start)
            octets = rows.contiguous().view(torch.uint8)
            words = F.pad(octets, (0, -octets.shape[1] % 8)).view(torch.int64)
            hashes[chunk] = (words * factors[: words.shape[1]]).sum(1)  # wraps around
        repeated = _find_repeated(hashes)
        indices = torch.cat([_find_members(hashes[chunk], repeated) + chunk.start for chunk in chunks])
        _, group = hashes[indices].unique(return_inverse=True)
        originals = indices.new_full((len(repeated),), self.size).scatter_reduce_(0, group, indices, "amin")[group]
        later = indices != originals
        copies, originals = indices[later], originals[later]
        equal = [
            (features[copies[part]] == features[originals[part]]).all(1)  # equal hashes may be chance
            for part in _split(len(copies), len(hashes[chunks[0]]))
        ]
        return (copies[torch.cat(equal)], originals[torch.cat(equal)]) if equal else (copies, originals)


def _find_repeated(values: Tensor) -> Tensor:
    """Return the values (N,) that occur more than once, ascending; on a CPU with one copy of them in memory."""
    if values.device.type == "cpu":
        array = values.numpy().copy()
        array.sort()
        ascending = torch.from_numpy(array)
    else:
        ascending = values.sort().values
    return ascending[1:][ascending[1:] == ascending[:-1]].unique()


def _find_members(values: Tensor, ascending: Tensor) -> Tensor:
    """Return the indices of values (N,) that are among ascending ones."""
    if not len(ascending):
        return values.new_empty(0)
    rows = torch.searchsorted(ascending, values).clamp(max=len(ascending) - 1)
    return (ascending[rows] == values).nonzero()[:, 0]


def _find_rows(ascending: Tensor, chunk: slice) -> slice:
    """Return which of ascending indices lie in a chunk of the gallery."""
    start, stop = torch.searchsorted(ascending, torch.tensor([chunk.start, chunk.stop], device=ascending.device))
    return slice(int(start), int(stop))


def open_gallery(features: Tensor | Features, size: int, device: torch.device) -> Gallery:
    """Return a gallery of the first features, normalised: in the device's memory if they are few, else read as needed.

    Args:
        features: (N, D).
        size: how many of them.
        device: where queries are ranked.
    """
    normalized = NormalizedFeatures(features, size, device)
    limit = torch.cuda.mem_get_info(device)[0] // 4 if device.type == "cuda" else IN_MEMORY
    return Gallery(normalized[:] if 4 * size * normalized.shape[1] <= limit else normalized)


def _choose_block(device: torch.device) -> int:
    """Return how many scores are held at once."""
    if device.type != "cuda":
        return BLOCK
    return max(BLOCK, min(LARGEST_BLOCK, torch.cuda.mem_get_info(device)[0] // 32))


def _mask_others(candidates: Sequence[Sequence[int]], device: torch.device) -> Callable[[Tensor, slice], None]:
    """Return a function that leaves each query only its candidates in the scores (B, C) of a chunk of the gallery."""
    row_of = {indices: row for row, indices in enumerate(dict.fromkeys(map(tuple, candidates)))}
    rows_of_queries = torch.tensor([row_of[tuple(indices)] for indices in candidates], device=device)
    lengths = torch.tensor([len(indices) for indices in row_of], device=device)
    rows = torch.arange(len(row_of), device=device).repeat_interleave(lengths)
    columns = torch.tensor(list(chain.from_iterable(row_of)), dtype=torch.int64, device=device)

    def mask(scores: Tensor, chunk: slice) -> None:
        keep = (lengths == 0)[:, None].repeat(1, scores.shape[1])
        is_inside = (columns >= chunk.start) & (columns < chunk.stop)
        keep[rows[is_inside], columns[is_inside] - chunk.start] = True
        scores.masked_fill_(~keep[rows_of_queries], _NO_CANDIDATE)

    return mask


def _mask_excluded(excluded: Sequence[int], device: torch.device) -> Callable[[Tensor, slice], None]:
    """Return a function that leaves out an image of each query in the scores (B, C) of a chunk of the gallery."""
    columns = torch.tensor(excluded, device=device)

    def mask(scores: Tensor, chunk: slice) -> None:
        rows = ((columns >= chunk.start) & (columns < chunk.stop)).nonzero()[:, 0]
        scores[rows, columns[rows] - chunk.start] = _NO_CANDIDATE

    return mask


def _find_top(scores: Tensor, indices: Tensor, targets: Tensor, depth: int) -> Tensor:
    """Return the columns (B, K) of the best scores of each row, ascending; ties are chosen as `Gallery.rank` says.

    Args:
        scores: (B, C).
        indices: (C,) of the images, ascending.
        targets: (B, T) indices of each row's targets.
        depth: the best that are wanted, of which there may be fewer.
    """
    values, columns = scores.topk(min(depth + 1, scores.shape[1]), dim=1)
    top = columns[:, :depth].sort(dim=1).values
    if values.shape[1] > depth:
        tied = (values[:, -2] == values[:, -1]) & ~values[:, -1].isneginf()
        for row in tied.nonzero()[:, 0].tolist():  # few rows: distinct images hardly ever tie
            rivals = (scores[row] >= values[row, -1]).nonzero().T
            order = _sort_columns(scores[row, rivals], _find_tie_order(indices[rivals], targets[row : row + 1]))
            top[row] = rivals.gather(1, order)[0, :depth].sort().values
    return top


def _find_tie_order(columns: Tensor, targets: Tensor) -> Tensor:
    """Return for each of the columns (B, K) 2 if it is the row's first target, 1 if another target, else 0."""
    is_target = columns[..., None] == targets[:, None]
    return is_target.any(2).int() + is_target[..., 0].int()


def _sort_columns(scores: Tensor, tie_order: Tensor) -> Tensor:
    """Return the order (B, K) of each row, best score first and among equal ones by `tie_order`."""
    order = tie_order.argsort(dim=1, stable=True)
    return order.gather(1, scores.gather(1, order).argsort(dim=1, descending=True, stable=True))


def _split(size: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


def _check_finite(features: Tensor, name: str, start: int) -> None:
    if (not_finite := ~features.isfinite().all(1)).any():
        index = start + int(not_finite.nonzero()[0])
        raise RTDError(f"a feature of {name} {index} is not finite; check the weights")

"""Triplets grouped by request: triplets that share both captions are wordings of one request.

In one batch, the target of a wording would be a false negative of another wording of the same request.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rtd_plugin.triplets.interning import mix_bits
from rtd_plugin.triplets.ragged import Ragged


class RequestWordings(NamedTuple):
    """R requests with their wordings, N triplets in all.

    Attributes:
        rows: (N,) uint32, the triplets of a request one after the other, in their order.
        starts: (R + 1,) int64, where in `rows` each request begins and the last one ends.
    """

    rows: np.ndarray
    starts: np.ndarray

    @property
    def first_rows(self) -> np.ndarray:
        """The first triplet of each request, (R,)."""
        return self.rows[self.starts[:-1]]

    def choose(self, requests: np.ndarray, visits: np.ndarray, seed: int) -> np.ndarray:
        """Return a triplet of each request.

        A request begins with one of its wordings at random, and takes the next one at each visit: after as many visits
        as it has wordings, each was taken once.

        Args:
            requests: (B,) int64.
            visits: (B,) int64, how often each request was visited before.
            seed: of the first wordings, any number of 64 bits.

        Returns:
            (B,) rows.
        """
        starts = self.starts[requests]
        first = mix_bits(mix_bits(requests.astype(np.uint64)) ^ np.uint64(seed)) >> np.uint64(1)
        wordings = (first.astype(np.int64) + visits) % (self.starts[requests + 1] - starts)
        return self.rows[starts + wordings]


def group_wordings(triplets: np.ndarray, sizes: Sequence[int]) -> tuple[RequestWordings, list[int]]:
    """Group triplets by their captions, those of each source by themselves.

    Args:
        triplets: (N, 3) uint32, the indices of reference, condition and target.
        sizes: triplets of each source; their sum is N.

    Returns:
        The requests, in the order of their first triplets, and how many each source has.
    """
    pairs = (triplets[:, 0].astype(np.uint64) << np.uint64(32)) | triplets[:, 2]
    rows, lengths = [], []
    for first, end in zip(np.cumsum(sizes) - sizes, np.cumsum(sizes), strict=True):
        order = np.argsort(pairs[first:end], kind="stable")
        ordered = pairs[first:end][order]
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        requests = Ragged(order + first, np.diff(starts, append=len(order)))
        # A stable sort leaves the first triplet of a request in front of the others.
        requests = requests.take(np.argsort(order[starts]))
        rows.append(requests.values.astype(np.uint32))
        lengths.append(requests.lengths)
    ends = np.cumsum(np.concatenate(lengths))
    return RequestWordings(np.concatenate(rows), np.concatenate([[0], ends])), [len(source) for source in lengths]

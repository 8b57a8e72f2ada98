"""Rows of different lengths in flat arrays."""

from typing import NamedTuple

import numpy as np


class Ragged(NamedTuple):
    """N rows of different lengths.

    Attributes:
        values: (T,) integers, one row after the other.
        lengths: (N,) int64, of each row; their sum is T.
    """

    values: np.ndarray
    lengths: np.ndarray

    def take(self, rows: np.ndarray) -> "Ragged":
        """Return some of the rows, in the order given."""
        return gather_slices(self.values, (np.cumsum(self.lengths) - self.lengths)[rows], self.lengths[rows])

    def sum_rows(self, values: np.ndarray) -> np.ndarray:
        """Sum (T,) other values over each row: (N,) of their dtype, which wraps around when it overflows."""
        totals = np.concatenate([np.zeros(1, values.dtype), np.cumsum(values, dtype=values.dtype)])
        ends = np.cumsum(self.lengths)
        return totals[ends] - totals[ends - self.lengths]


def gather_slices(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> Ragged:
    """Return the slices `values[start : start + length]`, copied one after the other.

    Args:
        values: (V,) integers; a memory map is read only where a slice is.
        starts, lengths: (N,) int64.
    """
    shifts = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    return Ragged(values[np.arange(len(shifts)) + shifts], lengths)


def concatenate_ragged(first: Ragged, second: Ragged) -> Ragged:
    """Return the rows of both."""
    return Ragged(*(np.concatenate(arrays) for arrays in zip(first, second, strict=True)))

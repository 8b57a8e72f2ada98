"""Triplets in columns on disk: memory-mapped Arrow files, and Parquet."""

import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rtd_plugin.errors import RTDError
from rtd_plugin.regular_files import check_regular
from rtd_plugin.triplets.triplet import Triplet

MAX_ROWS_IN_MEMORY = 1 << 16
BATCH = MAX_ROWS_IN_MEMORY // 4  # rows read or written at once
SOUND = "^[ -~]*[!-#%-~][ -~]*$"  # matches most of the texts in which `records.find_fault` finds nothing
SCHEMA = pa.schema([(name, pa.large_string()) for name in Triplet._fields])


def iterate_columns(triplets: Sequence[Triplet], rows: int) -> Iterator[list[pa.Array]]:
    """Yield triplets in order, at most `rows` at a time, as columns: references, conditions and targets.

    Triplets of this module's classes are not converted to Python objects.
    """
    if isinstance(triplets, (ArrowTriplets, ParquetTriplets)):
        for batch in triplets.batches():
            for start in range(0, batch.num_rows, rows):
                yield batch.slice(start, rows).columns
        return
    remaining = iter(triplets)
    while some := list(islice(remaining, rows)):
        yield [_to_array(column) for column in zip(*some, strict=True)]


def _to_array(texts: Sequence[str]) -> pa.Array:
    try:
        return pa.array(texts, pa.large_string())
    except UnicodeEncodeError:  # half a surrogate pair, from a plugin: replaced as the tokenizer replaces it
        return pa.array([text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts])


def collect(triplets: Iterable[Triplet]) -> Sequence[Triplet]:
    """Keep triplets: few in memory, many in a memory-mapped temporary file that is gone when the process ends.

    Raises:
        RTDError: the temporary file cannot be written.
    """
    remaining = iter(triplets)
    first = list(islice(remaining, MAX_ROWS_IN_MEMORY))
    if len(first) < MAX_ROWS_IN_MEMORY:
        return first
    with tempfile.NamedTemporaryFile(prefix="rtd-plugin-", suffix=".arrow") as file:
        try:
            with pa.OSFile(file.name, "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
                for rows in chain([first], iter(lambda: list(islice(remaining, BATCH)), [])):
                    columns = zip(*rows, strict=True)
                    writer.write_batch(
                        pa.record_batch([pa.array(column, pa.large_string()) for column in columns], schema=SCHEMA)
                    )
            return ArrowTriplets(pa.ipc.open_file(pa.memory_map(file.name)))
        except OSError as error:
            raise RTDError(
                f"{tempfile.gettempdir()}: triplets cannot be written to a temporary file ({error.strerror or error}): "
                "free some space, or set TMPDIR to another folder"
            ) from error


class ArrowTriplets(Sequence[Triplet]):
    """Triplets of a memory-mapped Arrow file."""

    def __init__(self, reader: pa.ipc.RecordBatchFileReader) -> None:
        self._batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        self._ends = list(accumulate(batch.num_rows for batch in self._batches))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Triplet: ...
    @overload
    def __getitem__(self, index: slice) -> list[Triplet]: ...
    def __getitem__(self, index: int | slice) -> Triplet | list[Triplet]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        batch_index = bisect_right(self._ends, index)
        batch = self._batches[batch_index]
        row = index - (self._ends[batch_index] - batch.num_rows)
        return Triplet(*(column[row].as_py() for column in batch.columns))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield all triplets as columns."""
        return iter(self._batches)

    def __iter__(self) -> Iterator[Triplet]:
        for batch in self._batches:
            yield from map(Triplet._make, zip(*(column.to_pylist() for column in batch.columns), strict=True))


class ParquetTriplets(Sequence[Triplet]):
    """Triplets of a Parquet file, decoded as they are read.

    The first access to a single row decodes the whole file into a temporary file (`collect`).

    Args:
        path: the file.
        columns: the names of reference, condition and target.
        check: returns what is wrong with a row's three values, "" if nothing is.

    Raises:
        RTDError: the file is not Parquet or lacks a column; when a row is read, `check` finds a fault in it.
    """

    def __init__(self, path: Path, columns: Sequence[str], check: Callable[[Sequence[object]], str]) -> None:
        self.path, self.columns, self._check = path, list(columns), check
        try:
            check_regular(path)
            self._file = pq.ParquetFile(path, memory_map=True)
        except (OSError, pa.ArrowException) as error:
            problem = (
                "a folder"
                if path.is_dir()
                else getattr(error, "strerror", None) or str(error).split(": ")[-1].split(". ")[0]
            )
            raise RTDError(f"{path}: not a readable Parquet file ({problem})") from error
        names = self._file.schema_arrow.names
        for column in self.columns:
            if column not in names:
                raise RTDError(f"{path}: has no column {column!r}, only {', '.join(names)}: set `columns`")
            dtype = self._file.schema_arrow.field(column).type
            value_type = dtype.value_type if pa.types.is_dictionary(dtype) else dtype
            if not (pa.types.is_string(value_type) or pa.types.is_large_string(value_type)):
                raise RTDError(f"{path}: the column {column!r} holds {dtype}, not text: set `columns`")
        metadata = self._file.metadata
        self._starts = [0, *accumulate(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))]
        self._next_slice: tuple[int, Iterator[Triplet]] = (-1, iter(()))  # the row where it starts, and the rows

    def __len__(self) -> int:
        return self._starts[-1]

    def rows(self, start: int = 0) -> Iterator[tuple[object, ...]]:
        """Yield the values of each row, from `start` on."""
        group = bisect_right(self._starts, start) - 1
        skip = start - self._starts[group]
        with self._explain_errors():
            for batch in self._read_batches(range(group, len(self._starts) - 1)):
                if skip < batch.num_rows:
                    batch = batch.slice(skip)
                    yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
                skip = max(0, skip - batch.num_rows)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield all triplets as columns."""
        done = 0
        with self._explain_errors():
            for batch in self._read_batches(range(len(self._starts) - 1)):
                sound = [pc.match_substring_regex(column.cast(pa.large_string()), SOUND) for column in batch.columns]
                suspicious = ~np.logical_and.reduce([column.fill_null(False).to_numpy(False) for column in sound])
                for row in np.flatnonzero(suspicious).tolist():
                    self._to_triplet(done + row + 1, [column[row].as_py() for column in batch.columns])
                done += batch.num_rows
                yield batch

    def _read_batches(self, groups: Iterable[int]) -> Iterator[pa.RecordBatch]:
        for batch in self._file.iter_batches(BATCH, row_groups=list(groups), columns=self.columns):
            yield batch.select(self.columns)

    @contextmanager
    def _explain_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise RTDError(f"{self.path}: broken Parquet file ({error})") from error

    def _to_triplet(self, row: int, values: Sequence[Any]) -> Triplet:
        if fault := self._check(values):
            raise RTDError(f"{self.path}, row {row:,}: {fault}; repair the file or set `skip_invalid: true`")
        return Triplet(*values)

    def _read_from(self, start: int) -> Iterator[Triplet]:
        return (self._to_triplet(row, values) for row, values in enumerate(self.rows(start), start + 1))

    def __iter__(self) -> Iterator[Triplet]:
        return self._read_from(0)

    @overload
    def __getitem__(self, index: int) -> Triplet: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Triplet]: ...
    def __getitem__(self, index: int | slice) -> Triplet | Sequence[Triplet]:
        if not isinstance(index, slice):
            return self._random_access[index]
        start, stop, step = index.indices(len(self))
        if step != 1:
            return self._random_access[index]
        # Most slices start where the last one ended.
        _, rows = self._next_slice if self._next_slice[0] == start else (start, self._read_from(start))
        triplets = list(islice(rows, max(0, stop - start)))
        self._next_slice = (start + len(triplets), rows)
        return triplets

    @cached_property
    def _random_access(self) -> Sequence[Triplet]:
        return collect(self)

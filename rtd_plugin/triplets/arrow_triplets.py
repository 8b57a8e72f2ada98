"""Triplets in columns that stay on disk: Arrow files in a memory map, and Parquet."""

import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate, chain, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rtd_plugin.errors import RTDError
from rtd_plugin.triplets.triplet import Triplet

BATCH = 1 << 16  # rows that stay in memory; of more, a quarter of so many is handled at once
SOUND = "^[ -~]*[!-#%-~][ -~]*$"  # text that `reading.text_fault` finds nothing wrong with: most, if not all
SCHEMA = pa.schema([(name, pa.large_string()) for name in Triplet._fields])


def by_column(triplets: Sequence[Triplet], rows: int) -> Iterator[list[pa.Array]]:
    """Triplets in order, some at a time, by column: arrays of references, conditions and targets.

    Args:
        triplets: any; of those of this module no Python objects are made.
        rows: how many at a time, at most.
    """
    if isinstance(triplets, (ArrowTriplets, ParquetTriplets)):
        for batch in triplets.batches():
            for start in range(0, batch.num_rows, rows):
                yield batch.slice(start, rows).columns
        return
    triplets = iter(triplets)
    while some := list(islice(triplets, rows)):
        yield [_array(column) for column in zip(*some, strict=True)]


def _array(texts: Sequence[str]) -> pa.Array:
    try:
        return pa.array(texts, pa.large_string())
    except UnicodeEncodeError:  # half a surrogate pair, which no file has: what the tokenizer would put in its place
        return pa.array([text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts])


def collect(triplets: Iterable[Triplet]) -> Sequence[Triplet]:
    """Keep triplets: a few in memory, more in a temporary file that is mapped into memory and is gone with the process.

    Raises:
        RTDError: the disk is full.
    """
    triplets = iter(triplets)
    first = list(islice(triplets, BATCH))
    if len(first) < BATCH:
        return first
    with tempfile.NamedTemporaryFile(prefix="rtd-plugin-", suffix=".arrow") as file:
        try:
            with pa.OSFile(file.name, "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
                for rows in chain([first], iter(lambda: list(islice(triplets, BATCH // 4)), [])):
                    columns = zip(*rows, strict=True)
                    writer.write_batch(
                        pa.record_batch([pa.array(column, pa.large_string()) for column in columns], schema=SCHEMA)
                    )
            return ArrowTriplets(pa.ipc.open_file(pa.memory_map(file.name)))
        except OSError as error:
            raise RTDError(
                f"{tempfile.gettempdir()}: the triplets cannot be kept there ({error.strerror or error}): "
                "make room, or set TMPDIR to another folder"
            ) from error


class ArrowTriplets(Sequence[Triplet]):
    """Triplets of an Arrow file; nothing of it is loaded but what is asked for."""

    def __init__(self, reader: pa.ipc.RecordBatchFileReader) -> None:
        self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        self._ends = list(accumulate(batch.num_rows for batch in self._batches))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index):  # int -> Triplet, slice -> list of them
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        number = bisect_right(self._ends, index)
        batch = self._batches[number]
        row = index - (self._ends[number] - batch.num_rows)
        return Triplet(*(column[row].as_py() for column in batch.columns))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All triplets, by column."""
        return iter(self._batches)

    def __iter__(self) -> Iterator[Triplet]:
        for batch in self._batches:
            yield from map(Triplet._make, zip(*(column.to_pylist() for column in batch.columns), strict=True))


class ParquetTriplets(Sequence[Triplet]):
    """Triplets of a Parquet file, decoded as they are read: in order at the speed of the disk.

    Asking for a single one by its number decodes the whole file once, into a memory map (`collect`).

    Args:
        path: the file.
        columns: of reference, condition and target.
        check: says what is wrong with a row's three values, "" for nothing.

    Raises:
        RTDError: the file is no Parquet file or lacks a column; on reading, a row's values are no triplet.
    """

    def __init__(self, path: Path, columns: Sequence[str], check: Callable[[Sequence[object]], str]) -> None:
        self.path, self.columns, self._check = path, list(columns), check
        try:
            self._file = pq.ParquetFile(path, memory_map=True)
        except (OSError, pa.ArrowException) as error:
            problem = "a folder" if path.is_dir() else str(error).split(": ")[-1].split(". ")[0]
            raise RTDError(f"{path}: not a readable Parquet file ({problem})") from error
        names = self._file.schema_arrow.names
        for column in self.columns:
            if column not in names:
                raise RTDError(f"{path}: has no column {column!r}, only {', '.join(names)}: set `columns`")
            kind = self._file.schema_arrow.field(column).type
            value = kind.value_type if pa.types.is_dictionary(kind) else kind
            if not (pa.types.is_string(value) or pa.types.is_large_string(value)):
                raise RTDError(f"{path}: the column {column!r} holds {kind}, not text: set `columns`")
        metadata = self._file.metadata
        self._starts = [0, *accumulate(metadata.row_group(n).num_rows for n in range(metadata.num_row_groups))]
        self._ahead: tuple[int, Iterator[Triplet]] = (-1, iter(()))

    def __len__(self) -> int:
        return self._starts[-1]

    def rows(self, start: int = 0) -> Iterator[tuple[object, ...]]:
        """The columns' values, row by row from one on."""
        group = bisect_right(self._starts, start) - 1
        skip = start - self._starts[group]
        with self._readable():
            for batch in self._decoded(range(group, len(self._starts) - 1)):
                if skip < batch.num_rows:
                    batch = batch.slice(skip)
                    yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
                skip = max(0, skip - batch.num_rows)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All triplets, by column."""
        done = 0
        with self._readable():
            for batch in self._decoded(range(len(self._starts) - 1)):
                sound = [pc.match_substring_regex(column.cast(pa.large_string()), SOUND) for column in batch.columns]
                doubted = ~np.logical_and.reduce([column.fill_null(False).to_numpy(False) for column in sound])
                for row in np.flatnonzero(doubted).tolist():
                    self._checked(done + row + 1, [column[row].as_py() for column in batch.columns])
                done += batch.num_rows
                yield batch

    def _decoded(self, groups: Iterable[int]) -> Iterator[pa.RecordBatch]:
        for batch in self._file.iter_batches(BATCH // 4, row_groups=list(groups), columns=self.columns):
            yield batch.select(self.columns)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise RTDError(f"{self.path}: broken Parquet file ({error})") from error

    def _checked(self, number: int, values: Sequence[object]) -> Triplet:
        if fault := self._check(values):
            raise RTDError(f"{self.path}, row {number:,}: {fault}; repair the file or set `skip_invalid: true`")
        return Triplet(*values)

    def _from(self, start: int) -> Iterator[Triplet]:
        return (self._checked(number, values) for number, values in enumerate(self.rows(start), start + 1))

    def __iter__(self) -> Iterator[Triplet]:
        return self._from(0)

    def __getitem__(self, index):  # int -> Triplet, slice -> list of them
        if not isinstance(index, slice):
            return self._mapped[index]
        start, stop, step = index.indices(len(self))
        if step != 1:
            return self._mapped[index]
        # The next slice most often goes on where the last one ended.
        position, rows = self._ahead if self._ahead[0] == start else (start, self._from(start))
        found = list(islice(rows, max(0, stop - position)))
        self._ahead = (start + len(found), rows)
        return found

    @cached_property
    def _mapped(self) -> Sequence[Triplet]:
        return collect(self)

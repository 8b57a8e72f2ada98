"""Triplets in columns on disk: memory-mapped Arrow files, and Parquet."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rtd_plugin.errors import RTDError
from rtd_plugin.regular_files import check_regular
from rtd_plugin.triplets.triplet import Triplet, Triplets

MAX_ROWS_IN_MEMORY = 1 << 16
BATCH = MAX_ROWS_IN_MEMORY // 4  # rows read or written at once
SOUND = "^[ -~]*[!-#%-~][ -~]*$"  # matches most of the texts in which `records.find_fault` finds nothing
SCHEMA = pa.schema([(name, pa.large_string()) for name in Triplet._fields])


def iterate_columns(triplets: Triplets, rows: int) -> Iterator[list[pa.Array]]:
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


def collect(triplets: Iterable[Triplet]) -> Triplets:
    """Keep triplets: few in memory, many in a memory-mapped temporary file that is deleted when the process ends.

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


class ArrowTriplets:
    """Triplets of a memory-mapped Arrow file."""

    def __init__(self, reader: pa.ipc.RecordBatchFileReader) -> None:
        self._batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]

    def __len__(self) -> int:
        return sum(batch.num_rows for batch in self._batches)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield all triplets as columns."""
        return iter(self._batches)

    def __iter__(self) -> Iterator[Triplet]:
        for batch in self._batches:
            yield from map(Triplet._make, zip(*(column.to_pylist() for column in batch.columns), strict=True))


class ParquetTriplets:
    """Triplets of a Parquet file, decoded as they are read.

    Args:
        path: the file.
        columns: the names of reference, condition and target; None for all columns of texts, or of lists of texts.
        check: returns what is wrong with a row's three values, "" if nothing is.

    Raises:
        RTDError: the file is not Parquet or lacks a column; when a row is read, `check` finds a fault in it.
    """

    def __init__(self, path: Path, columns: Sequence[str] | None, check: Callable[[Sequence[object]], str]) -> None:
        self.path, self._check = path, check
        try:
            check_regular(path)
            self._file = pq.ParquetFile(path, memory_map=True)
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            problem = str(getattr(error, "strerror", None) or error).split(": ")[-1].split(". ")[0]
            raise RTDError(f"{path}: not a readable Parquet file ({problem})") from error
        schema = self._file.schema_arrow
        self.columns = [field.name for field in schema if _holds_texts(field.type)] if columns is None else [*columns]
        for column in columns or ():
            if column not in schema.names:
                raise RTDError(f"{path}: has no column {column!r}, only {', '.join(schema.names)}: set `columns`")
            if pa.types.is_list(dtype := schema.field(column).type) or not _holds_texts(dtype):
                raise RTDError(f"{path}: the column {column!r} holds {dtype}, not text: set `columns`")

    def __len__(self) -> int:
        return self._file.metadata.num_rows

    def rows(self) -> Iterator[tuple[object, ...]]:
        """Yield the values of each row."""
        with self._explain_errors():
            for batch in self._read_batches():
                yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield all triplets as columns."""
        done = 0
        with self._explain_errors():
            for batch in self._read_batches():
                sound = [pc.match_substring_regex(column.cast(pa.large_string()), SOUND) for column in batch.columns]
                suspicious = ~np.logical_and.reduce([column.fill_null(False).to_numpy(False) for column in sound])
                for row in np.flatnonzero(suspicious).tolist():
                    self._to_triplet(done + row + 1, [column[row].as_py() for column in batch.columns])
                done += batch.num_rows
                yield batch

    def _read_batches(self) -> Iterator[pa.RecordBatch]:
        return (batch.select(self.columns) for batch in self._file.iter_batches(BATCH, columns=self.columns))

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

    def __iter__(self) -> Iterator[Triplet]:
        return (self._to_triplet(row, values) for row, values in enumerate(self.rows(), 1))


def _holds_texts(dtype: pa.DataType) -> bool:
    if pa.types.is_dictionary(dtype) or pa.types.is_list(dtype):
        dtype = dtype.value_type
    return pa.types.is_string(dtype) or pa.types.is_large_string(dtype)

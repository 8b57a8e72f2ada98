"""Records to triplet sets, and the sources of other files than JSON: Parquet, CSV and Hugging Face datasets."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator

from rtd_plugin.contract.hookspecs import hookimpl
from rtd_plugin.errors import RTDError
from rtd_plugin.paths import RecipePath
from rtd_plugin.triplets.records import (
    Column,
    Fault,
    Record,
    columns_of,
    records,
    text_fault,
    text_of,
    with_places,
)
from rtd_plugin.triplets.triplet import Triplet, TripletSet, TripletSource

DIGESTED = 4096  # triplets whose texts are joined, and digested, at once


def load_records(where: str, found: Iterable[Record], columns: Sequence[Column], skip_invalid: bool) -> TripletSet:
    """The triplets among records.

    Args:
        where: what errors call the place they are from.
        found: the records.
        columns: of reference, condition and target.
        skip_invalid: leave broken records out and count them, instead of stopping at them.

    Raises:
        RTDError: there is no triplet, or a record is broken and skip_invalid is not set.
    """
    from rtd_plugin.triplets.arrow_triplets import collect  # pyarrow, which help must not wait for

    digest = hashlib.sha256()
    broken, first_fault = 0, ""
    reference, condition, target = columns

    def triplets() -> Iterator[Triplet]:
        nonlocal broken, first_fault
        for place, record in found:
            try:
                yield Triplet(text_of(record, reference), text_of(record, condition), text_of(record, target))
            except Fault as fault:
                first_fault = first_fault or f"{place}: {fault}"
                broken += 1

    def digested(triplets: Iterator[Triplet]) -> Iterator[Triplet]:
        while some := list(islice(triplets, DIGESTED)):
            digest.update("\0".join((*chain.from_iterable(some), "")).encode())  # NUL is in no caption
            yield from some

    kept = collect(digested(triplets()))
    count = len(kept)
    if broken and not (skip_invalid and count):
        remedy = "repair the file" if skip_invalid else "repair the file or set `skip_invalid: true`"
        raise RTDError(f"{where}, {first_fault} (broken records: {broken:,} of {broken + count:,}); {remedy}")
    if not count:
        raise RTDError(f"{where} holds no triplets; name a file that has some")
    return TripletSet(kept, digest.hexdigest(), broken)


class _Columns(TripletSource):
    """A source whose columns have to be named.

    Attributes:
        columns: names of the columns `reference`, `condition` and `target`, where they are called otherwise.
        skip_invalid: leave broken rows out and count them, instead of stopping at them.
    """

    columns: dict[str, str] = Field(default_factory=dict)
    skip_invalid: bool = False

    @field_validator("columns")
    @classmethod
    def _known(cls, value: dict[str, str]) -> dict[str, str]:
        columns_of(value)
        return value


class CsvTriplets(_Columns):
    """Triplets of a CSV file (tabs between fields if its name ends in .tsv), UTF-8, with column names in its first row.

    Attributes:
        path: the file.
    """

    name: ClassVar[str] = "csv"

    path: RecipePath

    def load(self) -> TripletSet:
        columns = columns_of(self.columns)
        return load_records(str(self.path), records(self.path, columns), columns, self.skip_invalid)

    def depends_on(self) -> list[Path]:
        """The file."""
        return [self.path]


class ParquetSource(_Columns):
    """Triplets of a Parquet file, which stay there: rows are decoded, and found broken, as they are read.

    With `skip_invalid` the file is read once when it is opened, to find the broken rows.

    Attributes:
        path: the file.
    """

    name: ClassVar[str] = "parquet"

    path: RecipePath

    def load(self) -> TripletSet:
        from rtd_plugin.triplets.arrow_triplets import ParquetTriplets

        columns = columns_of(self.columns)
        names = [column[0] for column in columns]
        table = ParquetTriplets(self.path, names, lambda values: _row_fault(names, values))
        if self.skip_invalid:
            found = with_places((dict(zip(names, values, strict=True)) for values in table.rows()), "row")
            return load_records(str(self.path), found, columns, skip_invalid=True)
        if not len(table):
            raise RTDError(f"{self.path} holds no triplets; name a file that has some")
        return TripletSet(table, self._digest)

    def depends_on(self) -> list[Path]:
        """The file."""
        return [self.path]

    def _digest(self) -> str:
        """SHA-256 of the whole file and the columns' names."""
        with self.path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else _digest(file)
        content.update(repr(sorted(self.columns.items())).encode())
        return content.hexdigest()


def _digest(file: Any) -> Any:  # Python 3.10 has no hashlib.file_digest
    content = hashlib.sha256()
    while block := file.read(1 << 20):
        content.update(block)
    return content


def _row_fault(names: Sequence[str], values: Sequence[object]) -> str:
    return next(
        (f"`{name}` is {fault}" for name, value in zip(names, values, strict=True) if (fault := text_fault(value))), ""
    )


class DatasetTriplets(_Columns):
    """Triplets of a data set by its name on Hugging Face, or in a folder, through the library `datasets`.

    Attributes:
        dataset: its name.
        config: which of its configurations.
        split: which of its splits.
    """

    name: ClassVar[str] = "datasets"

    dataset: str
    config: str | None = None
    split: str = "train"

    def load(self) -> TripletSet:
        try:
            import datasets
        except ImportError as error:
            raise RTDError(
                "the source `datasets` needs the library: install it with `pip install 'rtd-plugin[datasets]'`"
            ) from error
        columns = columns_of(self.columns)
        try:
            table = datasets.load_dataset(self.dataset, self.config, split=self.split)
        except Exception as error:  # each of many loaders fails in its own way
            raise RTDError(
                f"the data set {self.dataset!r} (split {self.split!r}) cannot be loaded: "
                f"{' '.join(str(error).split())[:300]}"
            ) from error
        for column in columns:
            if column[0] not in table.column_names:
                raise RTDError(
                    f"the data set {self.dataset!r} has no column {column[0]!r}, only {', '.join(table.column_names)}: "
                    "set `columns`"
                )
        rows = table.select_columns([column[0] for column in columns])
        return load_records(f"the data set {self.dataset!r}", with_places(rows, "row"), columns, self.skip_invalid)


@hookimpl
def rtd_triplet_sources() -> list[type[TripletSource]]:
    """The sources `csv`, `parquet` and `datasets`."""
    return [CsvTriplets, ParquetSource, DatasetTriplets]

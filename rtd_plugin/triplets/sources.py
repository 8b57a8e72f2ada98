"""Convert records to triplet sets; the sources of files and of Hugging Face datasets."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import ClassVar

from pydantic import Field, field_validator

from rtd_plugin.errors import RTDError, require_extra
from rtd_plugin.paths import RecipePath
from rtd_plugin.triplets.records import Column, Fault, Record, add_locations, find_fault, get_text, read_records
from rtd_plugin.triplets.triplet import Triplet, TripletSet, TripletSource
from rtd_plugin.triplets.triplet_file import JSON_COLUMNS, TABLE_COLUMNS, rename_columns

HASHED_TOGETHER = 4096  # triplets whose texts are joined for one update of the digest


def load_triplets(origin: str, records: Iterable[Record], columns: Sequence[Column], skip_invalid: bool) -> TripletSet:
    """Read all triplets among records.

    Args:
        origin: the file or data set, for error messages.
        columns: of reference, condition and target.
        skip_invalid: leave broken records out and count them, instead of raising.

    Raises:
        RTDError: there are no triplets, or a record is broken and skip_invalid is not set.
    """
    with require_extra("train", "reading triplets"):
        from rtd_plugin.triplets.arrow_triplets import collect  # imports pyarrow, which `--help` does not need

    digest = hashlib.sha256()
    broken, first_fault = 0, ""
    reference, condition, target = columns

    def read() -> Iterator[Triplet]:
        nonlocal broken, first_fault
        for location, record in records:
            try:
                yield Triplet(get_text(record, reference), get_text(record, condition), get_text(record, target))
            except Fault as fault:
                first_fault = first_fault or f"{location}: {fault}"
                broken += 1

    def update_digest(triplets: Iterator[Triplet]) -> Iterator[Triplet]:
        while some := list(islice(triplets, HASHED_TOGETHER)):
            digest.update("\0".join((*chain.from_iterable(some), "")).encode())  # no caption contains NUL
            yield from some

    triplets = collect(update_digest(read()))
    count = len(triplets)
    if broken and not (skip_invalid and count):
        remedy = "repair the file" if skip_invalid else "repair the file or set `skip_invalid: true`"
        raise RTDError(f"{origin}, {first_fault} (broken records: {broken:,} of {broken + count:,}); {remedy}")
    if not count:
        raise RTDError(f"{origin} holds no triplets; name a file that has some")
    return TripletSet(triplets, digest.hexdigest(), broken)


class ColumnSource(TripletSource):
    """A source whose records name their texts.

    Attributes:
        columns: the names of `reference`, `condition` and `target`, where they differ from the defaults.
        skip_invalid: leave broken records out and count them, instead of stopping at the first.
    """

    default_columns: ClassVar[tuple[Column, ...]] = TABLE_COLUMNS

    columns: dict[str, str] = Field(default_factory=dict)
    skip_invalid: bool = False

    @field_validator("columns")
    @classmethod
    def _check_columns(cls, names: dict[str, str]) -> dict[str, str]:
        rename_columns(cls.default_columns, names)
        return names

    @property
    def named_columns(self) -> tuple[Column, ...]:
        """The columns of reference, condition and target."""
        return rename_columns(self.default_columns, self.columns)


class FileSource(ColumnSource):
    """Triplets of one file.

    Attributes:
        path: the file.
    """

    path: RecipePath

    def load(self) -> TripletSet:
        """Read all triplets, few into memory, many into a temporary file; texts are not changed.

        Returns:
            The triplets in file order, the SHA-256 of their content in hexadecimal, the number of skipped records.

        Raises:
            RTDError: the file cannot be read or holds no triplets, or a record is broken and skip_invalid is not set.
        """
        columns = self.named_columns
        return load_triplets(str(self.path), read_records(self.path, columns), columns, self.skip_invalid)

    def depends_on(self) -> list[Path]:
        """Return the file."""
        return [self.path]


class JsonTriplets(FileSource):
    """Triplets of a JSON or JSON-lines file, UTF-8; its shape follows from its content.

    - one object with the lists `reference_caption`, `conditioning_caption` and `target_caption`, as RTD's authors have;
    - an array of records with these keys;
    - JSON lines, one record a line.

    A record may have InstructPix2Pix's keys: `caption` or `input`, `edit`, `output`; `columns` names any others, such
    as `{reference: original_caption, condition: edit_prompt, target: edited_caption}`. Other keys are ignored.
    """

    name: ClassVar[str] = "json"
    default_columns: ClassVar[tuple[Column, ...]] = JSON_COLUMNS


class CsvTriplets(FileSource):
    """Triplets of a CSV file, UTF-8, with column names in its first row; tab-separated if its suffix is .tsv."""

    name: ClassVar[str] = "csv"


class ParquetSource(FileSource):
    """Triplets of a Parquet file, which are not copied: rows are decoded, and found broken, as they are read.

    With `skip_invalid` the file is read once when it is opened, to find the broken rows.
    """

    name: ClassVar[str] = "parquet"

    def load(self) -> TripletSet:
        """Open the file; its digest is that of the whole file, and the column names.

        Raises:
            RTDError: the file is not Parquet, lacks a column, or holds no triplets.
        """
        from rtd_plugin.cache import hash_key
        from rtd_plugin.regular_files import hash_file

        with require_extra("train", "a Parquet file"):
            from rtd_plugin.triplets.arrow_triplets import ParquetTriplets

        columns = self.named_columns
        names = [column[0] for column in columns]
        table = ParquetTriplets(self.path, names, lambda values: _find_row_fault(names, values))
        if self.skip_invalid:
            records = add_locations((dict(zip(names, values, strict=True)) for values in table.rows()), "row")
            return load_triplets(str(self.path), records, columns, skip_invalid=True)
        if not len(table):
            raise RTDError(f"{self.path} holds no triplets; name a file that has some")
        return TripletSet(table, lambda: hash_key([hash_file(self.path), sorted(self.columns.items())]))


def _find_row_fault(names: Sequence[str], values: Sequence[object]) -> str:
    faults = (f"`{name}` is {fault}" for name, value in zip(names, values, strict=True) if (fault := find_fault(value)))
    return next(faults, "")


class DatasetTriplets(ColumnSource):
    """Triplets of a data set by its name on Hugging Face, or in a folder, read with the library `datasets`.

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
        """Load the split.

        Raises:
            RTDError: the library is missing, the data set cannot be loaded or lacks a column, or as `load_triplets`.
        """
        with require_extra("datasets", "the source `datasets`"):
            import datasets
        columns = self.named_columns
        names = [column[0] for column in columns]
        try:
            table = datasets.load_dataset(self.dataset, self.config, split=self.split)
        except Exception as error:  # the loaders raise errors of many types
            raise RTDError(
                f"the data set {self.dataset!r} (split {self.split!r}) cannot be loaded: "
                f"{' '.join(str(error).split())[:300]}"
            ) from error
        for name in names:
            if name not in table.column_names:
                raise RTDError(
                    f"the data set {self.dataset!r} has no column {name!r}, only {', '.join(table.column_names)}: "
                    "set `columns`"
                )
        records = add_locations(table.select_columns(names), "row")
        return load_triplets(f"the data set {self.dataset!r}", records, columns, self.skip_invalid)

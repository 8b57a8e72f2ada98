"""Parquet, CSV and data sets give the same triplets; rows stay on disk, and errors name broken ones."""

import csv
import hashlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from rtd_plugin.errors import RTDError
from rtd_plugin.triplets import arrow_triplets as tables
from rtd_plugin.triplets.arrow_triplets import ArrowTriplets, ParquetTriplets, collect
from rtd_plugin.triplets.sources import CsvTriplets, DatasetTriplets, ParquetSource
from rtd_plugin.triplets.triplet import Triplet

TRIPLETS = [Triplet(f"a dog, number {n}", f'say "{n}"\nagain', f"the cat №{n}") for n in range(23)]
NAMES = ("before", "edit", "after")
COLUMNS = dict(zip(Triplet._fields, NAMES, strict=True))


@pytest.fixture
def small_batches(monkeypatch):
    """Make four rows too many for memory."""
    monkeypatch.setattr(tables, "MAX_ROWS_IN_MEMORY", 4)
    monkeypatch.setattr(tables, "BATCH", 1)


@pytest.fixture
def parquet(tmp_path):
    def parquet(rows=TRIPLETS, names=NAMES, **options):
        path = tmp_path / "triplets.parquet"
        pq.write_table(pa.table([list(column) for column in zip(*rows, strict=True)], names), path, **options)
        return path

    return parquet


@pytest.fixture
def write_csv(tmp_path):
    def write_csv(rows, names=NAMES):
        path = tmp_path / "triplets.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([names, *rows])
        return path

    return write_csv


def test_few_triplets_stay_in_memory_and_many_on_disk(small_batches):
    assert collect(iter(TRIPLETS[:3])) == TRIPLETS[:3]
    kept = collect(iter(TRIPLETS))
    assert isinstance(kept, ArrowTriplets)
    assert list(kept) == TRIPLETS
    assert len(kept) == 23


def test_the_file_of_many_triplets_has_no_name(small_batches, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    kept = collect(iter(TRIPLETS))
    assert list(tmp_path.iterdir()) == []
    assert list(kept) == TRIPLETS


def test_a_full_disk_is_named(small_batches, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pa.ipc, "new_file", full)
    with pytest.raises(RTDError, match=r"No space left on device.*TMPDIR"):
        collect(iter(TRIPLETS))


def test_csv_and_parquet_give_the_same(parquet, write_csv):
    for source in (
        ParquetSource(path=parquet(), columns=COLUMNS),
        CsvTriplets(path=write_csv(TRIPLETS), columns=COLUMNS),
    ):
        found = source.load()
        assert list(found.triplets) == TRIPLETS
        assert found.skipped == 0
        assert found.digest == source.load().digest


def test_tabs_and_a_byte_order_mark(tmp_path):
    (tmp_path / "t.tsv").write_text("reference\tcondition\ttarget\na, b\tc\td\n", encoding="utf-8-sig")
    assert list(CsvTriplets(path=tmp_path / "t.tsv").load().triplets) == [("a, b", "c", "d")]


def test_parquet_is_read_in_order(parquet, small_batches):
    triplets = ParquetTriplets(parquet(row_group_size=5), NAMES, lambda values: "")
    assert len(triplets) == 23
    assert list(triplets) == TRIPLETS


def test_opening_parquet_decodes_no_row(parquet, monkeypatch):
    path = parquet()
    monkeypatch.setattr(ParquetTriplets, "rows", None)
    assert len(ParquetSource(path=path, columns=COLUMNS).load().triplets) == 23


def test_the_digest_of_parquet_is_of_its_bytes_and_columns(parquet):
    path = parquet()
    turned = {"reference": "after", "condition": "edit", "target": "before"}
    digests = {ParquetSource(path=path, columns=columns).load().digest for columns in (COLUMNS, turned)}
    assert len(digests) == 2
    assert hashlib.sha256(path.read_bytes()).hexdigest() not in digests


@pytest.mark.parametrize("fault", [None, "", " $ ", "a\0b"])
def test_a_broken_row_of_parquet_stops_or_is_skipped(parquet, fault):
    rows = [*TRIPLETS[:9], ("a", fault, "b"), *TRIPLETS[9:]]
    path = parquet(rows)
    says = {None: "null", "": "empty", " $ ": "empty"}.get(fault, "not text (a NUL character)")
    with pytest.raises(RTDError) as raised:
        list(ParquetSource(path=path, columns=COLUMNS).load().triplets)
    assert str(raised.value) == f"{path}, row 10: `edit` is {says}; repair the file or set `skip_invalid: true`"
    kept = ParquetSource(path=path, columns=COLUMNS, skip_invalid=True).load()
    assert (list(kept.triplets), kept.skipped) == (TRIPLETS, 1)


def test_columns_of_parquet_are_checked(parquet, tmp_path):
    path = parquet()
    with pytest.raises(RTDError, match="no column 'reference', only before, edit, after: set `columns`"):
        ParquetSource(path=path).load()
    pq.write_table(pa.table({"reference": [1], "condition": ["a"], "target": ["b"]}), tmp_path / "n.parquet")
    with pytest.raises(RTDError, match="column 'reference' holds int64, not text"):
        ParquetSource(path=tmp_path / "n.parquet").load()
    with pytest.raises(ValidationError, match="'traget' is not one of reference, condition, target"):
        ParquetSource(path=path, columns={"traget": "after"})


def test_dictionary_columns(tmp_path):
    columns = [pa.array(column).dictionary_encode() for column in zip(*TRIPLETS, strict=True)]
    pq.write_table(pa.table(columns, Triplet._fields), tmp_path / "d.parquet")
    assert list(ParquetSource(path=tmp_path / "d.parquet").load().triplets) == TRIPLETS


def test_names_of_columns_that_are_not_utf8_are_an_error(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table(list(zip(*TRIPLETS, strict=True)), Triplet._fields), path, store_schema=False)
    name = Triplet._fields[0].encode()
    path.write_bytes(path.read_bytes().replace(name, b"\xff" + name[1:]))
    with pytest.raises(RTDError, match=r"x\.parquet: not a readable Parquet file"):
        ParquetSource(path=path).load()


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all", None])
def test_a_file_that_is_not_parquet_is_an_error(tmp_path, content):
    path = tmp_path / "x.parquet"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(RTDError, match=r"x\.parquet: not a readable Parquet file"):
        ParquetSource(path=path).load()


def test_an_empty_table_holds_no_triplets(parquet, tmp_path):
    pq.write_table(pa.table({name: pa.array([], pa.string()) for name in Triplet._fields}), tmp_path / "e.parquet")
    with pytest.raises(RTDError, match="holds no triplets"):
        ParquetSource(path=tmp_path / "e.parquet").load()


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (["a", "b"], "2 fields where the first row has 3"),
        (["a", "", "c"], "`edit` is empty"),
        (["a" * 2_000_000, "b", "c"], "longer than 1,048,576 bytes"),
    ],
)
def test_a_broken_row_of_csv_stops_or_is_skipped(write_csv, row, says):
    path = write_csv([*TRIPLETS[:2], row, *TRIPLETS[2:]])
    with pytest.raises(RTDError, match=says):
        CsvTriplets(path=path, columns=COLUMNS).load()
    kept = CsvTriplets(path=path, columns=COLUMNS, skip_invalid=True).load()
    assert (list(kept.triplets), kept.skipped) == (TRIPLETS, 1)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
def test_the_separator_is_recognised_by_the_first_row(tmp_path, separator, name):
    rows = [Triplet._fields, ("a, red; dog", "is | blue", "a\u2028blue dog"), ("b", "c", "d")]
    with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=separator).writerows(rows)
    assert list(CsvTriplets(path=tmp_path / name).load().triplets) == rows[1:]


def test_columns_that_csv_lacks_are_named_with_those_that_it_has(tmp_path):
    (tmp_path / "t.csv").write_text("before;edit;after\na;b;c\n")
    with pytest.raises(RTDError, match="has no column 'reference', only 'before', 'edit', 'after': name its columns"):
        CsvTriplets(path=tmp_path / "t.csv", skip_invalid=True).load()


def test_an_empty_last_cell_of_a_tab_separated_row_is_a_cell(tmp_path):
    (tmp_path / "t.tsv").write_text("reference\tcondition\ttarget\na\tb\t\n")
    with pytest.raises(RTDError, match="record 1: `target` is empty"):
        CsvTriplets(path=tmp_path / "t.tsv").load()


def test_csv_that_is_not_utf8(tmp_path):
    (tmp_path / "l.csv").write_bytes(b"reference,condition,target\na,b,c\ncaf\xe9,b,c\n")
    with pytest.raises(RTDError, match="record 2: `reference` is not UTF-8"):
        CsvTriplets(path=tmp_path / "l.csv").load()


def test_an_empty_csv(tmp_path):
    (tmp_path / "e.csv").write_text("")
    with pytest.raises(RTDError, match="the first row with the column names is missing"):
        CsvTriplets(path=tmp_path / "e.csv").load()


def test_a_data_set_in_a_folder(parquet, tmp_path):
    parquet()
    found = DatasetTriplets(dataset=str(tmp_path), columns=COLUMNS).load()
    assert list(found.triplets) == TRIPLETS


def test_a_missing_data_set_is_an_error(tmp_path, parquet):
    with pytest.raises(RTDError, match=r"the data set '.*none' \(split 'train'\) cannot be loaded"):
        DatasetTriplets(dataset=str(tmp_path / "none")).load()
    parquet()
    with pytest.raises(RTDError, match="has no column 'reference', only before, edit, after: set `columns`"):
        DatasetTriplets(dataset=str(tmp_path)).load()

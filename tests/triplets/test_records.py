"""Hostile files are read in bounded memory, and end in a clear error or a counted skip."""

import io
import tracemalloc

import pyarrow  # noqa: F401 (its import is not part of the bound)
import pytest

from rtd_plugin.errors import RTDError
from rtd_plugin.generation.captions import Caption, read_captions, split_captions
from rtd_plugin.triplets import records as reading
from rtd_plugin.triplets.records import Fault, read_csv, read_lines, read_records
from rtd_plugin.triplets.sources import JsonTriplets
from rtd_plugin.triplets.triplet_file import JSON_COLUMNS

GOOD = b'{"caption": "a dog", "edit": "a cat", "output": "the cat"}\n'


def sparse(path, size: int, before: bytes = b"", after: bytes = b"") -> None:
    """Write a file with a run of NUL bytes that takes no space on the disk."""
    with path.open("wb") as file:
        file.write(before)
        file.truncate(len(before) + size)
        file.seek(0, 2)
        file.write(after)


@pytest.fixture
def limit_memory():
    """Fail a test that allocates more than a fifth of its file of 100 MB."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


def test_a_line_that_does_not_end_is_skipped(tmp_path, limit_memory):
    path = tmp_path / "t.jsonl"
    sparse(path, 10**8, GOOD, b"\n" + GOOD)
    with pytest.raises(RTDError, match=r"record 2 \(line 2\): longer than 1,048,576 bytes \(broken records: 1 of 3\)"):
        JsonTriplets(path=path).load()
    kept = JsonTriplets(path=path, skip_invalid=True).load()
    assert (len(kept.triplets), kept.skipped) == (2, 1)


def test_a_file_of_one_line_that_does_not_end(tmp_path, limit_memory, monkeypatch):
    monkeypatch.setattr(reading, "MAX_JSON_BYTES", 10**7)
    path = tmp_path / "t.json"
    sparse(path, 10**8, b'{"caption": "')
    with pytest.raises(RTDError, match=r"100,000,013 bytes that are not JSON lines"):
        JsonTriplets(path=path).load()


def test_captions_on_a_line_that_does_not_end(tmp_path, limit_memory):
    path = tmp_path / "captions.txt"
    sparse(path, 10**8, b"a dog\n", b"\na cat\n")
    first, second, third = read_captions(path)
    assert (first, third) == (Caption("a dog"), Caption("a cat"))
    assert str(second) == "line 2: longer than 1,048,576 bytes"


def test_a_field_of_csv_that_never_ends():
    content = b'reference,condition,target\n"a' + b"b,c\n" * 300_000
    found = [record for _, record in read_csv(io.BytesIO(content))]
    assert "broken CSV" in str(found[0])


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_lines_at_the_limit(end):
    longest = b"a" * reading.MAX_LINE_BYTES
    (line,) = read_lines(io.BytesIO(longest + end))
    assert line == (1, longest)
    (number, fault), (_, after) = read_lines(io.BytesIO(longest + b"a\nb" + end))
    assert (number, after) == (1, b"b")
    assert isinstance(fault, Fault)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"caption": ' * 100_000, "JSON nested too deeply"),
        (b"\0" * 5000, "broken JSON"),
        (b"\xff\xfe{\x00}\x00", "byte 1 is not UTF-8"),
        (b'"a"', "neither an object nor an array"),
        (b"PK\x03\x04 a zip file", "broken JSON"),
    ],
)
def test_files_that_are_not_json(tmp_path, content, says):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(RTDError, match=says):
        list(read_records(tmp_path / "x.json", JSON_COLUMNS))


@pytest.mark.parametrize("name", ["x.json", "x.csv", "x.parquet", "captions.txt"])
def test_a_folder_in_a_file_s_place(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(RTDError, match=f"{name}"):
        list(read_captions(tmp_path / name) if name.endswith("txt") else read_records(tmp_path / name, JSON_COLUMNS))


def test_captions_of_one_image_are_not_split():
    captions = [Caption(str(n), image) for n, image in enumerate("aaabbbbcd")]
    assert [len(chunk) for chunk in split_captions(captions, 2)] == [3, 4, 2]
    assert [len(chunk) for chunk in split_captions([Caption("x")] * 5, 2)] == [2, 2, 1]

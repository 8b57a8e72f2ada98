"""Files are read again only if they have changed."""

import json
import os
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from token_triplets import read_store

from rtd_plugin.clip.tokens import Prompt
from rtd_plugin.errors import RTDError
from rtd_plugin.triplets import source_cache
from rtd_plugin.triplets.source_cache import open_source
from rtd_plugin.triplets.sources import CsvTriplets, JsonTriplets, ParquetSource
from rtd_plugin.triplets.token_store import open_token_store
from rtd_plugin.triplets.triplet import Triplet, TripletSet, TripletSource

TRIPLETS = [Triplet(f"a dog, number {n}", "show a cat", f"a cat, number {n}") for n in range(5)]
PROMPT = Prompt("a photo of $ that {condition}")
OPENED: list[str] | None = None  # paths, while it is a list


def _record_open(event, arguments):
    if OPENED is not None and event == "open":
        OPENED.append(str(arguments[0]))


sys.addaudithook(_record_open)  # it stays: Python cannot remove an audit hook


@pytest.fixture
def opened_files(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "OPENED", [])
    return OPENED


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RTD_PLUGIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def trust_file_times(monkeypatch):
    """Trust the times of files that were just written."""
    monkeypatch.setattr(source_cache, "TICK", -(10**12))


@pytest.fixture
def loads(monkeypatch):
    """Paths of the sources that are loaded."""
    paths = []
    for kind in (JsonTriplets, CsvTriplets, ParquetSource):
        monkeypatch.setattr(kind, "load", lambda self, load=kind.load: paths.append(self.path) or load(self))
    return paths


def json_source(folder, broken=False, **options):
    path = folder / "t.jsonl"
    lines = [json.dumps(dict(zip(("caption", "edit", "output"), triplet, strict=True))) for triplet in TRIPLETS]
    path.write_text("\n".join([*lines, "{}"] if broken else lines))
    return JsonTriplets(path=path, **options)


def csv_source(folder):
    rows = [Triplet._fields, *TRIPLETS]
    (folder / "t.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    return CsvTriplets(path=folder / "t.tsv")


def parquet_source(folder):
    columns = [pa.array(column) for column in zip(*TRIPLETS, strict=True)]
    pq.write_table(pa.table(columns, Triplet._fields), folder / "t.parquet")
    return ParquetSource(path=folder / "t.parquet")


def are_equal(first: TripletSet, second: TripletSet) -> bool:
    return (first.digest, first.count, first.skipped) == (second.digest, second.count, second.skipped)


@pytest.mark.parametrize("make", [json_source, csv_source, parquet_source])
def test_a_second_start_reads_nothing(make, tmp_path, trust_file_times, loads, opened_files):
    source = make(tmp_path)
    first = open_source(source)
    store = open_token_store([first], PROMPT)
    assert loads == [source.path]
    OPENED.clear()
    again = open_source(type(source).model_validate(source.model_dump()))
    assert are_equal(again, first)
    assert read_store(open_token_store([again], PROMPT)) == read_store(store)
    assert loads == [source.path]
    assert str(cache_file(tmp_path)) in OPENED
    assert str(source.path) not in OPENED


def cache_file(folder: Path) -> Path:
    (file,) = (folder / "cache" / "sources").glob("*.json")
    return file


def test_triplets_are_loaded_when_they_are_used(tmp_path, trust_file_times, loads):
    source = json_source(tmp_path)
    open_source(source)
    again = open_source(source)
    assert loads == [source.path]
    assert again.triplets == TRIPLETS
    assert again.triplets is again.triplets
    assert loads == [source.path] * 2


def test_the_count_of_skipped_records_is_cached(tmp_path, trust_file_times, loads):
    source = json_source(tmp_path, broken=True, skip_invalid=True)
    assert [open_source(source).skipped for _ in range(2)] == [1, 1]
    assert len(loads) == 1


def test_a_broken_file_is_an_error_every_time(tmp_path, trust_file_times):
    source = json_source(tmp_path, broken=True)
    for _ in range(2):
        with pytest.raises(RTDError, match=r"record 6 \(line 6\): .* is missing"):
            open_source(source)


def test_the_weight_does_not_count_and_other_options_do(tmp_path, trust_file_times, loads):
    source = json_source(tmp_path)
    open_source(source)
    open_source(JsonTriplets(path=source.path, weight=3))
    assert len(loads) == 1
    open_source(JsonTriplets(path=source.path, skip_invalid=True))
    open_source(JsonTriplets(path=source.path, columns={"target": "output"}))
    assert len(loads) == 3


def test_a_file_that_changed_is_read(tmp_path, trust_file_times, loads):
    source = json_source(tmp_path)
    first, times = open_source(source), source.path.stat()
    content = source.path.read_text()
    time.sleep(0.02)  # the resolution of times in Linux's file systems
    source.path.write_text(content.replace("dog", "cow"))  # the same size
    os.utime(source.path, ns=(times.st_atime_ns, times.st_mtime_ns))  # and the same modification time
    second = open_source(source)
    assert second.digest != first.digest
    assert second.triplets[0].reference == "a cow, number 0"
    assert len(loads) == 2


def test_another_file_in_its_place_is_read(tmp_path, trust_file_times, loads):
    source = json_source(tmp_path)
    open_source(source)
    (tmp_path / "other").write_text(source.path.read_text().replace("dog", "cow"))
    os.replace(tmp_path / "other", source.path)
    assert open_source(source).triplets[0].reference == "a cow, number 0"


def test_the_same_content_has_the_same_store(tmp_path, trust_file_times, loads):
    source = json_source(tmp_path)
    store = open_token_store([open_source(source)], PROMPT)
    os.utime(source.path, (1, 1))
    assert open_token_store([open_source(source)], PROMPT).key == store.key
    assert len(loads) == 2


def test_a_file_that_was_just_written_is_read_again(tmp_path, loads):
    """Another change could leave the same times."""
    source = json_source(tmp_path)
    assert are_equal(open_source(source), open_source(source))
    assert len(loads) == 2
    assert list(tmp_path.glob("cache/sources/*.json")) == []


def test_a_file_that_changes_while_it_is_read(tmp_path, trust_file_times, monkeypatch):
    source, load = json_source(tmp_path), JsonTriplets.load

    def changing(self):
        found = load(self)
        with self.path.open("a") as file:
            file.write("\n" * 3)
        return found

    monkeypatch.setattr(JsonTriplets, "load", changing)
    open_source(source)
    assert list(tmp_path.glob("cache/sources/*.json")) == []


def test_a_file_that_changes_before_its_triplets_are_used(tmp_path, trust_file_times):
    source = json_source(tmp_path)
    open_source(source)
    again = open_source(source)
    source.path.write_text(source.path.read_text().replace("dog", "cow"))
    with pytest.raises(RTDError, match=r"the triplets of the source `json` changed during start-up; start again"):
        open_token_store([again], PROMPT)


def test_a_missing_file_is_an_error(tmp_path, trust_file_times):
    source = json_source(tmp_path)
    open_source(source)
    source.path.unlink()
    with pytest.raises(RTDError, match=r"cannot read .*t\.jsonl"):
        open_source(source)


@pytest.mark.parametrize("content", ["", "[1]", "{}", "null"])
def test_a_broken_record_is_replaced(content, tmp_path, trust_file_times, loads):
    source = json_source(tmp_path)
    first = open_source(source)
    cache_file(tmp_path).write_text(content)
    assert are_equal(open_source(source), first)
    assert len(loads) == 2
    assert are_equal(open_source(source), first)
    assert len(loads) == 2


def test_a_cache_that_cannot_be_written(tmp_path, trust_file_times, loads, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RTD_PLUGIN_CACHE", str(tmp_path / "file"))
    source = json_source(tmp_path)
    assert open_source(source).triplets == TRIPLETS
    assert len(loads) == 1


def test_a_subclass_overrides_depends_on(tmp_path, trust_file_times, loads):
    class Uncached(JsonTriplets):
        def load(self):
            return super().load()

        def depends_on(self):
            return None

    path = json_source(tmp_path).path
    for _ in range(2):
        open_source(Uncached(path=path))
    assert len(loads) == 2


def test_sources_without_files_are_loaded_every_time(cache):
    class Endless(TripletSource):
        name = "endless"

        def load(self):
            made.append(Triplet("a", "b", "c"))
            return TripletSet(list(made), str(len(made)))

    made = []
    assert [open_source(Endless()).count for _ in range(3)] == [1, 2, 3]
    assert not cache.exists()

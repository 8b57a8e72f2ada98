"""Files that were read before are not read again, unless anything about them has changed."""

import json
import os
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rtd_plugin.clip.tokens import Prompt
from rtd_plugin.errors import RTDError
from rtd_plugin.triplets import source_cache as known
from rtd_plugin.triplets.json_source import InstructPix2PixTriplets, JsonTriplets
from rtd_plugin.triplets.source_cache import opened
from rtd_plugin.triplets.sources import CsvTriplets, ParquetSource
from rtd_plugin.triplets.token_store import open_token_store
from rtd_plugin.triplets.triplet import Triplet, TripletSet, TripletSource

TRIPLETS = [Triplet(f"a dog, number {n}", "show a cat", f"a cat, number {n}") for n in range(5)]
PROMPT = Prompt("a photo of $ that {condition}")
OPENED: list[str] | None = None  # paths, while it is a list


def _noted(event, arguments):
    if OPENED is not None and event == "open":
        OPENED.append(str(arguments[0]))


sys.addaudithook(_noted)  # there for good: Python has no way to take one out


@pytest.fixture
def files_opened(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "OPENED", [])
    return OPENED


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RTD_PLUGIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def settled(monkeypatch):
    """Files that were written a moment ago are as good as old ones."""
    monkeypatch.setattr(known, "TICK", -(10**12))


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


def same(one: TripletSet, other: TripletSet) -> bool:
    return (one.digest, one.count, one.skipped) == (other.digest, other.count, other.skipped)


@pytest.mark.parametrize("make", [json_source, csv_source, parquet_source])
def test_a_second_start_reads_nothing(make, tmp_path, settled, loads, files_opened):
    source = make(tmp_path)
    first = opened(source)
    store = open_token_store([first], PROMPT)
    assert loads == [source.path]
    OPENED.clear()
    again = opened(type(source).model_validate(source.model_dump()))
    assert same(again, first)
    assert list(open_token_store([again], PROMPT)) == list(store)
    assert loads == [source.path]
    assert str(cache_file(tmp_path)) in OPENED
    assert str(source.path) not in OPENED


def cache_file(folder: Path) -> Path:
    (file,) = (folder / "cache" / "sources").glob("*.json")
    return file


def test_triplets_are_there_when_they_are_asked_for(tmp_path, settled, loads):
    source = json_source(tmp_path)
    opened(source)
    again = opened(source)
    assert loads == [source.path]
    assert again.triplets == TRIPLETS
    assert again.triplets is again.triplets
    assert loads == [source.path] * 2


def test_skipped_records_are_remembered(tmp_path, settled, loads):
    source = json_source(tmp_path, broken=True, skip_invalid=True)
    assert [opened(source).skipped for _ in range(2)] == [1, 1]
    assert len(loads) == 1


def test_what_is_broken_is_said_every_time(tmp_path, settled):
    source = json_source(tmp_path, broken=True)
    for _ in range(2):
        with pytest.raises(RTDError, match=r"record 6 \(line 6\): .* is missing"):
            opened(source)


def test_weight_is_no_matter_and_options_are(tmp_path, settled, loads):
    source = json_source(tmp_path)
    opened(source)
    opened(JsonTriplets(path=source.path, weight=3))
    assert len(loads) == 1
    opened(JsonTriplets(path=source.path, skip_invalid=True))
    opened(InstructPix2PixTriplets(path=source.path))
    assert len(loads) == 3


def test_a_file_that_changed_is_read(tmp_path, settled, loads):
    source = json_source(tmp_path)
    first, times = opened(source), source.path.stat()
    content = source.path.read_text()
    time.sleep(0.02)  # a tick of Linux's file systems
    source.path.write_text(content.replace("dog", "cow"))  # as long
    os.utime(source.path, ns=(times.st_atime_ns, times.st_mtime_ns))  # and as old as before, to those who look at that
    second = opened(source)
    assert second.digest != first.digest
    assert second.triplets[0].reference == "a cow, number 0"
    assert len(loads) == 2


def test_another_file_in_its_place_is_read(tmp_path, settled, loads):
    source = json_source(tmp_path)
    opened(source)
    (tmp_path / "other").write_text(source.path.read_text().replace("dog", "cow"))
    os.replace(tmp_path / "other", source.path)
    assert opened(source).triplets[0].reference == "a cow, number 0"


def test_the_same_content_has_the_same_store(tmp_path, settled, loads):
    source = json_source(tmp_path)
    store = open_token_store([opened(source)], PROMPT)
    os.utime(source.path, (1, 1))
    assert open_token_store([opened(source)], PROMPT).key == store.key
    assert len(loads) == 2


def test_a_file_that_was_just_written_is_read_again(tmp_path, loads):
    """It could be written once more without its times telling."""
    source = json_source(tmp_path)
    assert same(opened(source), opened(source))
    assert len(loads) == 2
    assert list(tmp_path.glob("cache/sources/*.json")) == []


def test_a_file_that_changes_while_it_is_read(tmp_path, settled, monkeypatch):
    source, load = json_source(tmp_path), JsonTriplets.load

    def changing(self):
        found = load(self)
        with self.path.open("a") as file:
            file.write("\n" * 3)
        return found

    monkeypatch.setattr(JsonTriplets, "load", changing)
    opened(source)
    assert list(tmp_path.glob("cache/sources/*.json")) == []


def test_a_file_that_changes_before_its_triplets_are_asked_for(tmp_path, settled):
    source = json_source(tmp_path)
    opened(source)
    again = opened(source)
    source.path.write_text(source.path.read_text().replace("dog", "cow"))
    with pytest.raises(RTDError, match=r"the triplets of the source `json` changed just now; start again"):
        open_token_store([again], PROMPT)


def test_a_missing_file_is_said(tmp_path, settled):
    source = json_source(tmp_path)
    opened(source)
    source.path.unlink()
    with pytest.raises(RTDError, match=r"cannot read .*t\.jsonl"):
        opened(source)


@pytest.mark.parametrize("content", ["", "[1]", "{}", "null"])
def test_a_broken_record_is_made_anew(content, tmp_path, settled, loads):
    source = json_source(tmp_path)
    first = opened(source)
    cache_file(tmp_path).write_text(content)
    assert same(opened(source), first)
    assert len(loads) == 2
    assert same(opened(source), first)
    assert len(loads) == 2


def test_a_cache_that_cannot_be_written(tmp_path, settled, loads, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RTD_PLUGIN_CACHE", str(tmp_path / "file"))
    source = json_source(tmp_path)
    assert opened(source).triplets == TRIPLETS
    assert len(loads) == 1


def test_a_subclass_with_a_load_of_its_own_tells_for_itself(tmp_path, settled, loads):
    class Some(JsonTriplets):
        def load(self):
            return super().load()

    class Told(Some):
        def depends_on(self):
            return [self.path]

    path = json_source(tmp_path).path
    for kind, times in ((Some, 2), (Told, 3)):
        opened(kind(path=path))
        opened(kind(path=path))
        assert len(loads) == times


def test_sources_that_cannot_tell_are_loaded(cache):
    class Endless(TripletSource):
        name = "endless"

        def load(self):
            made.append(Triplet("a", "b", "c"))
            return TripletSet(list(made), str(len(made)))

    made = []
    assert [opened(Endless()).count for _ in range(3)] == [1, 2, 3]
    assert not cache.exists()

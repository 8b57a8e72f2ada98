"""Cached entries are built once, checked when they are opened, and built again when they are damaged."""

import json
import logging
import os
import threading

import pytest

from rtd_plugin import cache as module
from rtd_plugin.cache import build_once, cache_folder, hash_key, lock, read_record, write_record
from rtd_plugin.errors import RTDError
from rtd_plugin.files import WriteError

KEY = ["numbers", 3]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RTD_PLUGIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def build():
    """A function that writes two files; `build.calls` counts its calls."""

    def build(folder):
        build.calls += 1
        (folder / "numbers").write_bytes(bytes(range(100)))
        (folder / "empty").touch()

    build.calls = 0
    return build


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("RTD_PLUGIN_CACHE", "here")
    assert str(cache_folder()) == "here"
    monkeypatch.setenv("RTD_PLUGIN_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "rtd-plugin"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "rtd-plugin"


def test_an_entry_is_built_once(build, cache):
    folder = build_once("numbers", KEY, build)
    assert folder == cache / "numbers" / hash_key(KEY)
    assert (folder / "numbers").read_bytes() == bytes(range(100))
    assert build_once("numbers", KEY, build) == folder
    assert build.calls == 1
    assert build_once("numbers", ["numbers", 4], build) != folder
    assert build.calls == 2


@pytest.mark.parametrize("file", ["numbers", "index.json"])
@pytest.mark.parametrize("damage", ["emptied", "shortened", "flipped", "removed"])
def test_a_damaged_entry_is_built_again(build, caplog, file, damage):
    """Damaged tokens would train a model on wrong texts; an emptied file must not end in a traceback."""
    path = build_once("numbers", KEY, build) / file
    content = path.read_bytes()
    changed = {"emptied": b"", "shortened": content[:-1], "flipped": content[:-3] + b"0" + content[-2:]}
    path.unlink() if damage == "removed" else path.write_bytes(changed[damage])
    with caplog.at_level(logging.WARNING):
        folder = build_once("numbers", KEY, build)
    assert build.calls == 2
    assert (folder / "numbers").read_bytes() == bytes(range(100))
    assert caplog.messages == [f"{folder}: damaged, building it again"]
    build_once("numbers", KEY, build)
    assert build.calls == 2


def test_large_entries_are_checked_only_by_size(build, monkeypatch):
    monkeypatch.setattr(module, "CHECKED_BYTES", 99)
    path = build_once("numbers", KEY, build) / "numbers"
    path.write_bytes(bytes(100))
    build_once("numbers", KEY, build)
    assert build.calls == 1
    path.write_bytes(bytes(99))
    build_once("numbers", KEY, build)
    assert build.calls == 2


def test_an_index_with_unexpected_content_counts_as_damaged(build, caplog):
    """Although its checksum is right."""
    folder = build_once("numbers", KEY, build)
    write_record(folder / "index.json", {"gone": [1, 2]})
    build_once("numbers", KEY, build)
    assert build.calls == 2


def test_a_failed_build_keeps_nothing(cache):
    def fail(folder):
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_once("numbers", KEY, fail)
    assert [path.suffix for path in (cache / "numbers").iterdir()] in ([], [".lock"])


def test_threads_that_need_one_entry_build_it_once(build):
    threads = [threading.Thread(target=build_once, args=("numbers", KEY, build)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert build.calls == 1


def test_a_cache_that_cannot_be_written_is_an_error(build, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RTD_PLUGIN_CACHE", str(tmp_path / "file"))
    with pytest.raises(WriteError, match=r"file/numbers: cannot be written \(Not a directory\): set RTD_PLUGIN_CACHE"):
        build_once("numbers", KEY, build)


def test_a_full_disk_names_the_variable_to_set():
    def fill(folder):
        raise OSError(28, "No space left on device")

    with pytest.raises(RTDError, match=r"cannot be written \(.*No space left on device\): set RTD_PLUGIN_CACHE"):
        build_once("numbers", KEY, fill)


def test_an_intact_entry_needs_no_lock(build, monkeypatch):
    folder = build_once("numbers", KEY, build)

    def refuse(path):
        raise AssertionError("locked")

    monkeypatch.setattr(module, "lock", refuse)
    assert build_once("numbers", KEY, build) == folder


def test_a_lock_has_one_holder_at_a_time(tmp_path):
    with lock(tmp_path / "new" / "lock") as first, lock(tmp_path / "new" / "lock", wait=False) as second:
        assert (first, second) == (True, False)
    with lock(tmp_path / "new" / "lock", wait=False) as held:
        assert held


def test_a_record_is_read_or_counts_as_missing(tmp_path):
    value = {"digest": "ab", "counts": [1, 2.5, None]}
    write_record(tmp_path / "record", value)
    assert read_record(tmp_path / "record") == value
    changed = (tmp_path / "record").read_text().replace("ab", "ac")
    for content in (changed, "", "[1]", "null", "{}", json.dumps({"value": 1, "crc32": "x"})):
        (tmp_path / "record").write_text(content)
        assert read_record(tmp_path / "record") is None
    os.unlink(tmp_path / "record")
    assert read_record(tmp_path / "record") is None

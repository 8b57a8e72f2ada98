"""Of several runs that start at once, one reads triplets and writes their tokens; later ones use the cache."""

import pytest
from token_triplets import read_store

from rtd_plugin.errors import RTDError
from rtd_plugin.triplets import source_cache as known
from rtd_plugin.triplets.sources import JsonTriplets


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RTD_PLUGIN_CACHE", str(tmp_path / "cache"))


def test_of_several_processes_one_reads_and_tokenises(start, recipe_file, tmp_path):
    notes = tmp_path / "notes"
    common = {"RECIPE": recipe_file, "NOTES": notes, "CACHE": tmp_path / "cache"}
    read = []
    for names in (("one", "two", "three"), ("four",)):
        processes = [start("starting.py", FOLDER=tmp_path / name, **common) for name in names]
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0] * len(names)
        steps = notes.read_text().split()
        assert steps.count("made") == 1
        read.append(steps.count("read"))
    # Of the first three, the process that makes the tokens need not be the one that read, and then reads as well.
    assert read[0] in (1, 2)
    assert read[1] == read[0], "the fourth reads nothing"
    assert len({path.read_text() for path in tmp_path.glob("notes-*")}) == 1
    assert len(list(tmp_path.glob("notes-*"))) == 4


def test_a_second_start_finds_what_the_first_recorded(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr(known, "TICK", -(10**12))
    with (tmp_path / "triplets.jsonl").open("a") as file:
        file.write("{}\n")
    overrides = [f"triplets=[{{source: json, path: {tmp_path / 'triplets.jsonl'}, skip_invalid: true, weight: 2}}]"]
    first = make_run("one", *overrides)
    monkeypatch.setattr(JsonTriplets, "load", None)
    again = make_run("two", *overrides)
    assert (again.skipped, again.triplet_digests) == (first.skipped, first.triplet_digests)
    assert first.skipped == 1
    assert again.triplets.key == first.triplets.key
    assert read_store(again.triplets) == read_store(first.triplets)


def test_models_are_checked_before_triplets_are_read(make_run, monkeypatch):
    """A checkpoint of another size must be refused before triplets are tokenised."""
    monkeypatch.setattr("rtd_plugin.training.run.open_source", None)
    with pytest.raises(
        RTDError, match=r"layers? of width .*; ViT-L-14 has 12 layers of width 768 .*: set backbone\.model"
    ):
        make_run("run", "backbone.model=ViT-L-14")

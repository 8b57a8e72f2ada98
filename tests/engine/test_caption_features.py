"""Features of triplets are computed once and read back exactly; damaged ones are recomputed."""

import errno
import os

import numpy as np
import pytest
import torch

from rtd_plugin.engine import caption_features
from rtd_plugin.engine.caption_features import CHECKSUM, CaptionFeatures
from rtd_plugin.errors import RTDError

D, BLOCK, TRIPLETS = 5, 4, 30


@pytest.fixture
def path(tmp_path):
    return tmp_path / "frozen" / "some.features"


class Encoder:
    """Features whose last bits show with which triplets each was computed; records the requests."""

    def __init__(self, dtype=torch.float32):
        self.dtype, self.requested = dtype, []

    def __call__(self, positions):
        self.requested.append(positions.tolist())
        values = torch.from_numpy(positions).view(-1, 1, 1) + torch.arange(2 * D).view(2, D) / 16
        return (values + int(positions.sum()) / 2**20).to(self.dtype)


def make_cache(path, dtype=torch.float32):
    return CaptionFeatures(path, TRIPLETS, BLOCK, D, dtype)


def read_features(cache, *positions, dtype=torch.float32):
    encoder = Encoder(dtype)
    return cache.read(np.array(positions), encoder), encoder.requested


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_features_are_cached_to_the_last_bit(path, dtype):
    first, requested = read_features(make_cache(path, dtype), 4, 5, 6, 7, dtype=dtype)
    assert requested == [[4, 5, 6, 7]]
    again, requested = read_features(make_cache(path, dtype), 7, 4, 5, dtype=dtype)
    assert requested == []
    assert again.dtype == dtype
    assert again.shape == (3, 2, D)
    assert torch.equal(again, first[[3, 0, 1]])


def test_blocks_are_computed_whole(path):
    """Whatever was computed before, and in whatever order, features are the same."""
    cache = make_cache(path)
    features, requested = read_features(cache, 29, 6, 17, 5)
    assert requested == [[4, 5, 6, 7], [16, 17, 18, 19], [28, 29]]
    assert read_features(cache, 4, 5, 6, 7, 16, 28)[1] == []
    other = make_cache(path.with_name("other.features"))
    for position in (5, 17, 6, 29):
        read_features(other, position)
    separate, requested = read_features(other, 29, 6, 17, 5)
    assert requested == []
    assert torch.equal(features, separate)


def test_a_damaged_row_is_computed_again_with_its_block(path):
    first, _ = read_features(make_cache(path), 8, 9, 10, 11)
    size = CHECKSUM + 2 * 4 * D
    with path.open("r+b") as file:
        file.seek(10 * size - 1)
        file.write(b"\xff")
    again, requested = read_features(make_cache(path), 8, 9, 10)
    assert requested == [[8, 9, 10, 11]]
    assert torch.equal(again, first[:3])
    assert read_features(make_cache(path), 9)[1] == []


def test_a_feature_of_zeros_is_cached(path):
    cache = make_cache(path)
    cache.read(np.array([28]), lambda positions: torch.zeros(2, 2, D))
    assert cache.read(np.array([28]), None).tolist() == [[[0.0] * D] * 2]


def test_triplets_without_room_are_computed_each_time(path, monkeypatch):
    """Room is for whole blocks, so that a batch of the first epoch is computed whole with or without it."""
    monkeypatch.setattr(caption_features, "LIMIT", 2 * 11 * (CHECKSUM + 2 * 4 * D))
    cache = make_cache(path)
    assert cache.rows == 8
    assert path.stat().st_size <= caption_features.LIMIT
    first, requested = read_features(cache, 20, 3, 21)
    assert requested == [[0, 1, 2, 3], [20, 21]]
    again, requested = read_features(cache, 20, 3, 21)
    assert requested == [[20, 21]]
    assert torch.equal(first, again)


def test_no_room_at_all(path, monkeypatch):
    monkeypatch.setattr(caption_features, "LIMIT", 0)
    cache = make_cache(path)
    assert read_features(cache, 1, 2)[1] == read_features(cache, 1, 2)[1] == [[1, 2]]


def test_short_writes_are_continued(path, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, content, offset: pwrite(file, content[:7], offset))
    cache = make_cache(path)
    first, _ = read_features(cache, 0, 1)
    again, requested = read_features(cache, 0, 1)
    assert requested == []
    assert torch.equal(again, first)


def test_a_full_disk_ends_the_caching_and_not_the_run(path, monkeypatch, caplog):
    """Batches of the first epoch are still computed whole; later ones without the rest of each triplet's block."""
    cache = make_cache(path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    for _ in range(2):
        features, requested = read_features(cache, 1, 2)
        assert requested == [[0, 1, 2, 3]]
        assert features[:, 0, 0].round().tolist() == [1, 2]
    assert read_features(cache, 1, 9)[1] == [[1, 9]]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: no more features are cached (No space left on device)"
    ]


def test_the_least_recently_used_files_make_room(path, monkeypatch):
    for age, name in enumerate(("new", "old", "older")):
        file = path.with_name(f"{name}.features")
        read_features(make_cache(file), 0)
        os.utime(file, (1e9 - age, 1e9 - age))
    block = path.with_name("new.features").stat().st_blocks * 512
    monkeypatch.setattr(caption_features, "LIMIT", 5 * block)
    make_cache(path)
    assert {file.name for file in path.parent.glob("*.features")} == {"new.features", "old.features", path.name}


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "frozen").touch()
    with pytest.raises(RTDError, match=r"frozen: cannot be written .*: set RTD_PLUGIN_CACHE"):
        make_cache(tmp_path / "frozen" / "some.features")

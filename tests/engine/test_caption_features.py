"""Features of captions are computed once and read back exactly; damaged ones are recomputed."""

import errno
import os

import pytest
import torch

from rtd_plugin.engine import caption_features
from rtd_plugin.engine.caption_features import CHECKSUM, CaptionFeatures
from rtd_plugin.errors import RTDError

D = 5


@pytest.fixture
def path(tmp_path):
    return tmp_path / "frozen" / "some.features"


class Encoder:
    """Features whose last bits show with how many captions each was computed; records the requests."""

    def __init__(self, captions, dtype=torch.float32):
        self.captions, self.dtype, self.requested = captions, dtype, []

    def __call__(self, mask):
        captions = self.captions[mask]
        self.requested.append(captions.tolist())
        return (captions.unsqueeze(1) + torch.arange(D) / 8 + len(captions) / 2**20).to(self.dtype)


def read_features(cache, *captions, dtype=torch.float32):
    captions = torch.tensor(captions)
    encoder = Encoder(captions, dtype)
    return cache.read(captions, encoder), encoder.requested


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_features_are_cached_to_the_last_bit(path, dtype):
    first, requested = read_features(CaptionFeatures(path, 100, D, dtype), 7, 3, 99, 7, dtype=dtype)
    assert requested == [[7, 3, 99, 7]]
    again, requested = read_features(CaptionFeatures(path, 100, D, dtype), 99, 7, 3, dtype=dtype)
    assert requested == []
    assert again.dtype == dtype
    assert torch.equal(again, first[[2, 0, 1]])


def test_captions_of_a_batch_are_computed_together(path):
    """Whichever of them are cached, the features of the rest do not depend on it."""
    cache = CaptionFeatures(path, 100, D, torch.float32)
    early, _ = read_features(cache, 1, 2)
    features, requested = read_features(cache, 2, 3, 4)
    assert requested == [[2, 3, 4]]
    assert torch.equal(features[0], early[1])
    other = CaptionFeatures(path.with_name("other.features"), 100, D, torch.float32)
    read_features(other, 3)
    separate, _ = read_features(CaptionFeatures(path.with_name("third.features"), 100, D, torch.float32), 2, 3, 4)
    assert torch.equal(features[1:], separate[1:])


def test_a_damaged_row_is_computed_again(path):
    first, _ = read_features(CaptionFeatures(path, 9, D, torch.float32), 2, 3, 4)
    size = CHECKSUM + 4 * D
    with path.open("r+b") as file:
        file.seek(3 * size + size - 1)
        file.write(b"\xff")
    again, requested = read_features(CaptionFeatures(path, 9, D, torch.float32), 2, 3, 4)
    assert requested == [[2, 3, 4]]
    assert torch.equal(again, first)
    assert read_features(CaptionFeatures(path, 9, D, torch.float32), 3)[1] == []


def test_a_feature_of_zeros_is_cached(path):
    cache = CaptionFeatures(path, 9, D, torch.float32)
    cache.read(torch.tensor([4]), lambda mask: torch.zeros(1, D))
    assert cache.read(torch.tensor([4]), None).tolist() == [[0.0] * D]


def test_captions_without_room_are_computed_each_time(path, monkeypatch):
    monkeypatch.setattr(caption_features, "LIMIT", 2 * 4 * (CHECKSUM + 4 * D))
    cache = CaptionFeatures(path, 100, D, torch.float32)
    assert cache.rows == 4
    assert path.stat().st_size <= caption_features.LIMIT
    first, requested = read_features(cache, 50, 3, 51)
    assert requested == [[3], [50, 51]]
    again, requested = read_features(cache, 50, 3, 51)
    assert requested == [[50, 51]]
    assert torch.equal(first, again)


def test_no_room_at_all(path, monkeypatch):
    monkeypatch.setattr(caption_features, "LIMIT", 0)
    cache = CaptionFeatures(path, 100, D, torch.float32)
    assert read_features(cache, 1, 2)[1] == read_features(cache, 1, 2)[1] == [[1, 2]]


def test_a_full_disk_ends_the_caching_and_not_the_run(path, monkeypatch, caplog):
    cache = CaptionFeatures(path, 100, D, torch.float32)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    for _ in range(2):
        features, requested = read_features(cache, 1, 2)
        assert requested == [[1, 2]]
        assert features[:, 0].round().tolist() == [1, 2]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: no more features are cached (No space left on device)"
    ]


def test_the_least_recently_used_files_make_room(path, monkeypatch):
    for age, name in enumerate(("new", "old", "older")):
        file = path.with_name(f"{name}.features")
        CaptionFeatures(file, 3, D, torch.float32).read(torch.tensor([0]), lambda mask: torch.ones(1, D))
        os.utime(file, (1e9 - age, 1e9 - age))
    block = path.with_name("new.features").stat().st_blocks * 512
    monkeypatch.setattr(caption_features, "LIMIT", 5 * block)
    CaptionFeatures(path, 3, D, torch.float32)
    assert {file.name for file in path.parent.glob("*.features")} == {"new.features", "old.features", path.name}


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "frozen").touch()
    with pytest.raises(RTDError, match=r"frozen: cannot be written .*: set RTD_PLUGIN_CACHE"):
        CaptionFeatures(tmp_path / "frozen" / "some.features", 9, D, torch.float32)

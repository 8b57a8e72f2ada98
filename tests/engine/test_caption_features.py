"""Features of captions are computed once, and read back to the last bit or not at all."""

import errno
import os

import pytest
import torch

from rtd_plugin.engine import caption_features as frozen
from rtd_plugin.engine.caption_features import CHECKSUM, KeptFeatures
from rtd_plugin.errors import RTDError

D = 5


@pytest.fixture
def path(tmp_path):
    return tmp_path / "frozen" / "some.features"


class Encoder:
    """Features that tell, in the last bit, with how many others a caption was computed; and what was asked of it."""

    def __init__(self, captions, dtype=torch.float32):
        self.captions, self.dtype, self.asked = captions, dtype, []

    def __call__(self, chosen):
        captions = self.captions[chosen]
        self.asked.append(captions.tolist())
        return (captions.unsqueeze(1) + torch.arange(D) / 8 + len(captions) / 2**20).to(self.dtype)


def features(kept, *captions, dtype=torch.float32):
    captions = torch.tensor(captions)
    encoder = Encoder(captions, dtype)
    return kept.features(captions, encoder), encoder.asked


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_features_are_kept_to_the_last_bit(path, dtype):
    first, asked = features(KeptFeatures(path, 100, D, dtype), 7, 3, 99, 7, dtype=dtype)
    assert asked == [[7, 3, 99, 7]]
    again, asked = features(KeptFeatures(path, 100, D, dtype), 99, 7, 3, dtype=dtype)
    assert asked == []
    assert again.dtype == dtype
    assert torch.equal(again, first[[2, 0, 1]])


def test_captions_of_a_batch_are_computed_together(path):
    """Whichever of them were there, what the others get does not depend on it."""
    kept = KeptFeatures(path, 100, D, torch.float32)
    early, _ = features(kept, 1, 2)
    found, asked = features(kept, 2, 3, 4)
    assert asked == [[2, 3, 4]]
    assert torch.equal(found[0], early[1])
    other = KeptFeatures(path.with_name("other.features"), 100, D, torch.float32)
    features(other, 3)
    undisturbed, _ = features(KeptFeatures(path.with_name("third.features"), 100, D, torch.float32), 2, 3, 4)
    assert torch.equal(found[1:], undisturbed[1:])


def test_what_was_half_written_is_computed_again(path):
    first, _ = features(KeptFeatures(path, 9, D, torch.float32), 2, 3, 4)
    size = CHECKSUM + 4 * D
    with path.open("r+b") as file:
        file.seek(3 * size + size - 1)
        file.write(b"\xff")
    again, asked = features(KeptFeatures(path, 9, D, torch.float32), 2, 3, 4)
    assert asked == [[2, 3, 4]]
    assert torch.equal(again, first)
    assert features(KeptFeatures(path, 9, D, torch.float32), 3)[1] == []


def test_a_feature_of_zeros_is_kept(path):
    kept = KeptFeatures(path, 9, D, torch.float32)
    kept.features(torch.tensor([4]), lambda chosen: torch.zeros(1, D))
    assert kept.features(torch.tensor([4]), None).tolist() == [[0.0] * D]


def test_captions_without_room_are_computed_each_time(path, monkeypatch):
    monkeypatch.setattr(frozen, "LIMIT", 2 * 4 * (CHECKSUM + 4 * D))
    kept = KeptFeatures(path, 100, D, torch.float32)
    assert kept.rows == 4
    assert path.stat().st_size <= frozen.LIMIT
    first, asked = features(kept, 50, 3, 51)
    assert asked == [[3], [50, 51]]
    again, asked = features(kept, 50, 3, 51)
    assert asked == [[50, 51]]
    assert torch.equal(first, again)


def test_no_room_at_all(path, monkeypatch):
    monkeypatch.setattr(frozen, "LIMIT", 0)
    kept = KeptFeatures(path, 100, D, torch.float32)
    assert features(kept, 1, 2)[1] == features(kept, 1, 2)[1] == [[1, 2]]


def test_a_full_disk_ends_the_keeping_and_not_the_run(path, monkeypatch, caplog):
    kept = KeptFeatures(path, 100, D, torch.float32)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    for _ in range(2):
        found, asked = features(kept, 1, 2)
        assert asked == [[1, 2]]
        assert found[:, 0].round().tolist() == [1, 2]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: keeps no more features (No space left on device)"
    ]


def test_files_that_were_not_used_for_longest_make_room(path, monkeypatch):
    for age, name in enumerate(("new", "old", "older")):
        file = path.with_name(f"{name}.features")
        KeptFeatures(file, 3, D, torch.float32).features(torch.tensor([0]), lambda chosen: torch.ones(1, D))
        os.utime(file, (1e9 - age, 1e9 - age))
    block = path.with_name("new.features").stat().st_blocks * 512
    monkeypatch.setattr(frozen, "LIMIT", 5 * block)
    KeptFeatures(path, 3, D, torch.float32)
    assert {file.name for file in path.parent.glob("*.features")} == {"new.features", "old.features", path.name}


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "frozen").touch()
    with pytest.raises(RTDError, match=r"frozen: cannot be written .*: set RTD_PLUGIN_CACHE"):
        KeptFeatures(tmp_path / "frozen" / "some.features", 9, D, torch.float32)

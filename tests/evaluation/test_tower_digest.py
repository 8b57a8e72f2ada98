"""The digest of an image tower is computed once for an unchanged file."""

import pytest
import torch
from torch import nn

from rtd_plugin.clip.backbones import ImageEncoder
from rtd_plugin.evaluation import tower_digest
from rtd_plugin.evaluation.feature_cache import hash_module
from rtd_plugin.evaluation.tower_digest import hash_tower


@pytest.fixture
def encoder(tmp_path):
    """A tower that was read from a file."""
    (tmp_path / "clip.pt").write_bytes(b"weights")
    return ImageEncoder(nn.Linear(3, 2), torch.Tensor, tmp_path / "clip.pt")


@pytest.fixture
def hashed(monkeypatch):
    """The towers that are hashed; files count as settled at once."""
    towers = []

    def count(module, *settings):
        towers.append(module)
        return hash_module(module, *settings)

    monkeypatch.setattr(tower_digest, "hash_module", count)
    monkeypatch.setattr(tower_digest, "TICK", 0)
    return towers


def test_an_unchanged_file_is_hashed_once(encoder, hashed, tmp_path):
    first, second = (hash_tower(encoder, tmp_path / "digests", "clip") for _ in range(2))
    assert first == second == hash_module(encoder.visual, "clip")
    assert len(hashed) == 1


@pytest.mark.parametrize("change", ["file", "settings", "tower", "source"])
def test_changed_files_are_hashed_again(encoder, hashed, tmp_path, change):
    hash_tower(encoder, tmp_path / "digests", "clip")
    visual, source, settings = encoder.visual, encoder.source, "clip"
    if change == "file":
        source.write_bytes(b"other weights")
    elif change == "settings":
        settings = "targetpad"
    elif change == "tower":
        visual = nn.Linear(3, 3)
    else:
        source = None
    hash_tower(ImageEncoder(visual, encoder.preprocess, source), tmp_path / "digests", settings)
    assert len(hashed) == 2


def test_the_digest_of_a_file_that_just_changed_is_not_cached(encoder, hashed, tmp_path, monkeypatch):
    """It may change once more without another time."""
    monkeypatch.setattr(tower_digest, "TICK", 10**15)
    for _ in range(2):
        hash_tower(encoder, tmp_path / "digests")
    assert len(hashed) == 2

"""Weights in a file are what they were, and take memory while they are read alone."""

import copy
import resource
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from rtd_plugin.engine.weight_file import WeightFile


@pytest.fixture
def module():
    return nn.Sequential(nn.Linear(3, 5), nn.Linear(2048, 4096), nn.LayerNorm(7).half()).requires_grad_(False)


def mapped():
    """Mebibytes of files in this process's memory."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssFile"].split()[0]) / 1024


def test_weights_are_what_they_were(module, tmp_path):
    before = copy.deepcopy(module.state_dict())
    file = WeightFile(module, tmp_path)
    for _ in range(2):
        torch.testing.assert_close(module.state_dict(), before, rtol=0, atol=0)
        file.release(module)
    copied = copy.deepcopy(module)
    del file, module
    torch.testing.assert_close(copied.state_dict(), before, rtol=0, atol=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody says what is in memory")
def test_weights_take_memory_while_they_are_read(module, tmp_path):
    file = WeightFile(module, tmp_path)
    file.release(module)
    released = mapped()
    assert float(module[1].weight.sum()) != 0
    assert mapped() > released + 30
    file.release(module[0])
    assert mapped() > released + 30
    file.release(module[1])
    assert mapped() < released + 2


def test_a_full_disk_leaves_the_weights_where_they_are(module, tmp_path):
    before = copy.deepcopy(module.state_dict())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
        with pytest.raises(OSError, match="too large"):
            WeightFile(module, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    torch.testing.assert_close(module.state_dict(), before, rtol=0, atol=0)

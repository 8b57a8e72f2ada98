"""Vectors that are computed once: by several processes, and after one of them was killed."""

import multiprocessing
import runpy
import signal
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation import feature_cache
from rtd_plugin.evaluation.feature_cache import FeatureCache, hash_module, hash_text
from rtd_plugin.evaluation.key_index import KeyIndex

KEYS = [hash_text(str(index)) for index in range(23)]


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(feature_cache, "SHARD", 5)
    monkeypatch.setattr(feature_cache, "POLL", 0.01)


def vector(index):
    return torch.tensor([index, index**2, 0.1])


class Compute:
    """Vectors by index; records the indices that it is asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, indices):
        self.asked.append(list(indices))
        return {index: vector(index) for index in indices}


WHOLE = torch.stack([vector(index) for index in range(23)])


def test_vectors_are_computed_once(tmp_path):
    first, second = Compute(), Compute()
    assert torch.equal(FeatureCache(tmp_path).fetch(KEYS, first)[:], WHOLE)
    assert first.asked == [[*range(start, min(start + 5, 23))] for start in range(0, 23, 5)]
    assert torch.equal(FeatureCache(tmp_path).fetch(KEYS, second)[:], WHOLE)
    assert second.asked == []


def test_only_missing_vectors_are_computed(tmp_path):
    """For any list of images, in any order."""
    FeatureCache(tmp_path).fetch(KEYS[3:9], lambda indices: {index: vector(3 + index) for index in indices})
    compute = Compute()
    kept = FeatureCache(tmp_path)
    assert kept.count_missing(KEYS) == 17
    assert torch.equal(kept.fetch(KEYS, compute)[:], WHOLE)
    assert sorted(chain.from_iterable(compute.asked)) == [0, 1, 2, *range(9, 23)]
    assert torch.equal(FeatureCache(tmp_path).fetch(KEYS[::-1], Compute())[:], WHOLE.flip(0))


def test_equal_keys_are_computed_once():
    compute = Compute()
    twice = FeatureCache(None).fetch([KEYS[0], KEYS[1], KEYS[0]], compute)[:]
    assert len(list(chain.from_iterable(compute.asked))) == 2
    assert torch.equal(twice[0], twice[2])


def test_without_a_folder_vectors_are_kept_in_memory():
    kept, compute = FeatureCache(None), Compute()
    assert torch.equal(kept.fetch(KEYS, compute)[:], WHOLE)
    assert torch.equal(kept.fetch(KEYS, compute)[:], WHOLE)
    assert len(compute.asked) == 5


def test_a_vector_that_is_left_out_is_an_error_and_the_rest_is_kept(tmp_path):
    def all_but_7(indices):
        return {index: vector(index) for index in indices if index != 7}

    with pytest.raises(RTDError, match="no features of 1 of 23, the first at index 7"):
        FeatureCache(tmp_path).fetch(KEYS, all_but_7)
    compute = Compute()
    FeatureCache(tmp_path).fetch(KEYS, compute)
    assert compute.asked == [[7]]


@pytest.mark.parametrize("content", [b"", b"no safetensors", None])
def test_a_damaged_file_is_computed_again(tmp_path, content):
    FeatureCache(tmp_path).fetch(KEYS, Compute())
    file = sorted(tmp_path.glob("*.safetensors"))[2]
    file.write_bytes(file.read_bytes()[:-20] if content is None else content)
    compute = Compute()
    assert torch.equal(FeatureCache(tmp_path).fetch(KEYS, compute)[:], WHOLE)
    assert len(list(chain.from_iterable(compute.asked))) in (3, 5)
    assert torch.equal(FeatureCache(tmp_path).fetch(KEYS, Compute())[:], WHOLE)


@pytest.mark.parametrize("damage", [b"", None, "removed"])
def test_a_file_damaged_after_its_keys_were_read_is_computed_again(tmp_path, damage):
    FeatureCache(tmp_path).fetch(KEYS, Compute())
    cache, compute = FeatureCache(tmp_path), Compute()
    assert cache.count_missing(KEYS) == 0
    file = sorted(tmp_path.glob("*.safetensors"))[2]
    if damage == "removed":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-20] if damage is None else damage)
    assert torch.equal(cache.fetch(KEYS, compute)[:], WHOLE)
    assert len(list(chain.from_iterable(compute.asked))) in (3, 5)
    compute = Compute()
    assert torch.equal(FeatureCache(tmp_path).fetch(KEYS, compute)[:], WHOLE)
    assert compute.asked == []


def test_vectors_are_read_in_parts(tmp_path):
    vectors = FeatureCache(tmp_path).fetch(KEYS[::-1], lambda indices: {index: vector(22 - index) for index in indices})
    assert vectors.shape == (23, 3)
    assert torch.equal(vectors[4:17], WHOLE.flip(0)[4:17])
    rows = torch.tensor([20, 3, 3, 11])
    assert torch.equal(vectors[rows], WHOLE.flip(0)[rows])
    assert vectors[5:5].shape == (0, 3)


def test_a_file_that_is_removed_while_vectors_are_read_is_named(tmp_path):
    vectors = FeatureCache(tmp_path).fetch(KEYS, Compute())
    vectors._cache.paths[1].unlink()
    assert torch.equal(vectors[:5], WHOLE[:5])
    with pytest.raises(RTDError, match="was removed or damaged during the run: run the command again"):
        vectors[4:6]


def test_keys_with_a_word_in_common_are_told_apart():
    words = np.array([[7, 1, 1, 1], [7, 1, 1, 2], [9, 0, 0, 0], [7, 3, 1, 1]], np.uint64)
    index = KeyIndex()
    assert index.find(words).tolist() == [-1] * 4
    index.add(words[:2], np.array([5, 6]))
    index.add(words[2:3], np.array([0]))
    assert index.find(words).tolist() == [5, 6, 0, -1]
    index.remove(5, 5)
    assert index.find(words[::-1]).tolist() == [-1, 0, 6, -1]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RTDError, match=r"cannot cache features here .*: pass another --cache"):
        FeatureCache(tmp_path / "file" / "images").fetch(KEYS, Compute())


@pytest.fixture(scope="module")
def start():
    """Starts the program beside this file in a forked process, without imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rtd_plugin.evaluation.feature_cache"])
    program = str(Path(__file__).with_name("fill_cache.py"))

    def start(folder, before):
        names = {"FOLDER": folder, "BEFORE": before}
        process = context.Process(target=runpy.run_path, args=(program,), kwargs={"init_globals": names})
        process.start()
        return process

    return start


def test_a_killed_process_loses_no_finished_shard(start, tmp_path):
    process = start(tmp_path, "die at 10")
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 2
    compute = Compute()
    assert torch.equal(FeatureCache(tmp_path / "cache").fetch(KEYS, compute)[:], WHOLE)
    assert compute.asked == [[*range(start, min(start + 5, 23))] for start in range(10, 23, 5)]


def test_two_processes_share_the_work(start, tmp_path):
    started = [start(tmp_path, "wait") for _ in range(2)]
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0, 0]
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == list(range(23))


def test_a_hash_depends_on_weights_and_settings():
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(3, 2), nn.GELU())
    same, other = nn.Sequential(nn.Linear(3, 2), nn.GELU()), nn.Sequential(nn.Linear(3, 2), nn.GELU())
    same.load_state_dict(one.state_dict())
    assert hash_module(one) == hash_module(same)
    assert hash_module(one) == hash_module(same.train()) == hash_module(same.eval())
    wider = nn.Sequential(nn.Linear(3, 2), nn.GELU(approximate="tanh"))
    wider.load_state_dict(one.state_dict())
    digests = {*map(hash_module, (one, other, wider)), hash_module(one, "clip"), hash_module(one, "targetpad")}
    with torch.no_grad():
        one[0].bias[1] += 1e-6
    assert len({*digests, hash_module(one)}) == 6

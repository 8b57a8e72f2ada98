"""Checkpoints are recognised by their content, and read without running code in them."""

import argparse
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from rtd_plugin.checkpoint_files import is_jit_archive, read_checkpoint
from rtd_plugin.checkpoint_parts import flatten_checkpoint, hash_checkpoint
from rtd_plugin.errors import RTDError
from rtd_plugin.regular_files import hash_file

STATE = {"weight": torch.arange(6.0).reshape(2, 3)}


class Payload:
    """A pickle of it makes the file `path` when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_checkpoints_are_read(tmp_path):
    save_file(STATE, tmp_path / "a.safetensors")
    torch.save({"epoch": 1, **STATE}, tmp_path / "b.pt")
    torch.save(STATE, tmp_path / "c.pt", _use_new_zipfile_serialization=False)
    for file in sorted(tmp_path.iterdir()):
        assert torch.equal(read_checkpoint(file)["weight"], STATE["weight"])


def test_pickled_code_is_refused_and_not_run(tmp_path):
    ran = tmp_path / "ran"
    torch.save({"weight": Payload(ran)}, tmp_path / "a.pt")
    torch.save({"weight": Payload(ran)}, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    for protocol in range(2, 6):
        (tmp_path / f"c{protocol}.pkl").write_bytes(pickle.dumps({"weight": Payload(ran)}, protocol))
    for file in sorted(tmp_path.iterdir()):
        with pytest.raises(RTDError, match=r"holds pickled objects other than tensors.*Save its state dict alone"):
            read_checkpoint(file)
    assert not ran.exists()
    pickle.loads(pickle.dumps(Payload(ran)))
    assert ran.exists(), "the payload does not work"


@pytest.mark.parametrize("cut", [0, 1, 40, 500, -1])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_checkpoints_are_refused(tmp_path, kind, cut):
    path = tmp_path / ("a.safetensors" if kind == "safetensors" else "a.pt")
    if kind == "safetensors":
        save_file({"weight": torch.zeros(300)}, path)
    else:
        torch.save({"weight": torch.zeros(300)}, path, _use_new_zipfile_serialization=kind == "zip")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(RTDError, match="not a checkpoint, or a broken or truncated one"):
        read_checkpoint(path)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(), st.binary().map(b"\x80\x02".__add__), st.text().map(str.encode)))
def test_random_bytes_are_not_a_checkpoint(tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(RTDError, match=r"a\.pt: ") as error:
        read_checkpoint(tmp_path / "a.pt")
    assert "weights_only" not in str(error.value)


@pytest.mark.parametrize(
    "content", ["<html>not found</html>", '{"a": 1}', "version https://git-lfs.github.com/spec/v1"]
)
def test_text_is_not_a_checkpoint(tmp_path, content):
    (tmp_path / "a.pt").write_text(content)
    with pytest.raises(RTDError, match=r"a\.pt: not a checkpoint, or a broken or truncated one$"):
        read_checkpoint(tmp_path / "a.pt")


def test_missing_files_and_folders_are_not_checkpoints(tmp_path):
    with pytest.raises(RTDError, match="none: no such file"):
        read_checkpoint(tmp_path / "none")
    with pytest.raises(RTDError, match="a folder, not a checkpoint file"):
        read_checkpoint(tmp_path)


def test_a_lone_tensor_is_not_a_checkpoint(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "a.pt")
    with pytest.raises(RTDError, match="holds a Tensor, not a state dict"):
        read_checkpoint(tmp_path / "a.pt")


def test_a_plain_archive_is_not_torchscript(tmp_path):
    torch.save(STATE, tmp_path / "a.pt")
    assert not is_jit_archive(tmp_path / "a.pt")
    (tmp_path / "a.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:-30] + b"PK\x05\x06" + bytes(26))
    assert not is_jit_archive(tmp_path / "a.pt")


def test_a_file_is_recognised_by_its_content(tmp_path):
    """Safetensors under the name .pt, and the other way round."""
    (tmp_path / "a.pt").write_bytes(save(STATE))
    torch.save(STATE, tmp_path / "b.safetensors")
    torch.save(STATE, tmp_path / "c.safetensors", _use_new_zipfile_serialization=False)
    for file in sorted(tmp_path.iterdir()):
        assert torch.equal(read_checkpoint(file)["weight"], STATE["weight"])


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_harmless_objects_beside_weights_are_not_created(tmp_path, new):
    """Objects that training programs save: NumPy numbers, options, paths."""
    beside = {
        "epoch": np.int64(3),
        "best": np.float64(0.5),
        "finished": np.bool_(True),
        "name": np.str_("a"),
        "random": np.arange(3),
        "args": argparse.Namespace(lr=1e-4, path=Path("x")),
        "folder": Path("runs"),
    }
    torch.save({**beside, "state_dict": STATE}, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
    checkpoint = read_checkpoint(tmp_path / "a.pt")
    assert torch.equal(checkpoint["state_dict"]["weight"], STATE["weight"])
    assert {type(checkpoint[name]).__name__ for name in beside} == {"UnreadObject"}
    assert not any(vars(checkpoint[name]) for name in beside)


def test_code_among_harmless_objects_is_refused_and_not_run(tmp_path):
    ran = tmp_path / "ran"
    for index, value in enumerate((argparse.Namespace(x=Payload(ran)), np.array([Payload(ran)], dtype=object))):
        torch.save({"args": value, **STATE}, tmp_path / f"{index}.pt")
        with pytest.raises(RTDError, match="holds pickled objects other than tensors"):
            read_checkpoint(tmp_path / f"{index}.pt")
    assert not ran.exists()


def write_shards(folder, **index):
    save_file({"a": torch.ones(2)}, folder / "model-00001-of-00002.safetensors")
    save_file({"b": torch.zeros(3)}, folder / "model-00002-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": names, **index}))
    return path


def test_the_files_of_an_index_are_read_together(tmp_path):
    path = write_shards(tmp_path)
    assert {name: len(value) for name, value in read_checkpoint(path).items()} == {"a": 2, "b": 3}
    before = hash_checkpoint(path)
    save_file({"b": torch.ones(3)}, tmp_path / "model-00002-of-00002.safetensors")
    assert hash_checkpoint(path) != before
    assert hash_checkpoint(tmp_path / "model-00002-of-00002.safetensors#b") == hash_file(
        tmp_path / "model-00002-of-00002.safetensors"
    )


@pytest.mark.parametrize("names", [None, {}, [], {"a": 3}, {"a": "../model.safetensors"}, {"a": "/etc/passwd"}])
def test_broken_indices_are_refused(tmp_path, names):
    with pytest.raises(RTDError, match=r"index\.json: not the index of a checkpoint in several files"):
        read_checkpoint(write_shards(tmp_path, weight_map=names))


def test_a_missing_file_of_an_index_is_named(tmp_path):
    with pytest.raises(RTDError, match="model-3: no such file"):
        read_checkpoint(write_shards(tmp_path, weight_map={"a": "model-3"}))


def test_a_key_chooses_what_is_read(tmp_path):
    other = {"weight": torch.ones(1)}
    torch.save({"epoch": 1, "model": STATE, "ema": {"module": other}}, tmp_path / "a.pt")
    assert torch.equal(read_checkpoint(tmp_path / "a.pt#model")["weight"], STATE["weight"])
    for key in ("ema.module", "ema"):
        assert [*read_checkpoint(tmp_path / f"a.pt#{key}")] == ["weight" if key == "ema.module" else "module.weight"]
    for key in ("emma", "epoch", ""):
        with pytest.raises(RTDError, match=rf"no weights under the key '{key}'; its dictionaries are model, ema$"):
            read_checkpoint(tmp_path / f"a.pt#{key}")
    torch.save(STATE, tmp_path / "b#2.pt")
    assert read_checkpoint(tmp_path / "b#2.pt").keys() == STATE.keys()


def test_dictionaries_within_themselves_are_read_once():
    shared = {"x": 1}
    checkpoint = {"a": shared, "b": {"c": shared}}
    checkpoint["b"]["d"] = checkpoint
    assert flatten_checkpoint(checkpoint) == {"a.x": 1}
    nested = {"x": 1}
    for _ in range(100):
        nested = {"a": nested, "b": nested}
    assert len(flatten_checkpoint(nested)) == 1

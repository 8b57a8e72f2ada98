"""Safetensors files, read without the library."""

import json

import pytest
import torch
from safetensors.torch import save_file

from rtd_plugin.clip.tensor_file import read_tensors
from rtd_plugin.errors import RTDError


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_tensors_are_read(tmp_path, dtype):
    shapes = {"a": (3, 5), "b.weight": (2, 3, 4), "c": (1,)}
    tensors = {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"step": "5"})
    read = read_tensors(tmp_path / "x.safetensors")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == dtype
        assert torch.equal(read[name], tensor)


def make_file(header: object, content: bytes = bytes(8)) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff" * 8 + b"{}", id="long header"),
        pytest.param(make_file([1]), id="a list"),
        pytest.param(make_file({"a": 5}), id="no entry"),
        pytest.param(make_file({"a": {**ENTRY, "dtype": "I99"}}), id="dtype"),
        pytest.param(make_file({"a": {**ENTRY, "shape": [3]}}), id="shape"),
        pytest.param(make_file({"a": {**ENTRY, "data_offsets": [0, 12]}}), id="offsets"),
        pytest.param(make_file({"a": {**ENTRY, "data_offsets": [-8, 0]}}), id="negative"),
        pytest.param(make_file({"a": ENTRY}, bytes(4)), id="truncated"),
        pytest.param(make_file({"a": ENTRY})[:20], id="half a header"),
    ],
)
def test_broken_files_are_refused(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(RTDError, match=r"x\.safetensors: not a readable safetensors file"):
        read_tensors(tmp_path / "x.safetensors")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(RTDError, match="not a readable safetensors file"):
        read_tensors(tmp_path / "x.safetensors")

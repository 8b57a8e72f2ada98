"""TorchScript archives are read without running their code."""

import re
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from rtd_plugin.checkpoint_files import read_checkpoint
from rtd_plugin.errors import RTDError

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore:`torch.jit:DeprecationWarning")


class Layers(nn.Module):
    """Parameters, buffers, shared and strided weights of several types, and plain attributes."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.tied = self.linear.weight
        self.blocks = nn.Sequential(nn.Linear(3, 2).half(), nn.LayerNorm(2))
        self.transposed = nn.Parameter(torch.arange(6.0).reshape(2, 3).t())
        self.scale = nn.Parameter(torch.tensor(2.5))
        self.register_buffer("input_resolution", torch.tensor(32))
        self.register_buffer("none", None)
        self.lengths, self.name, self.ratio = [1, 2], "layers", 0.5

    def forward(self, x):
        return self.linear(x) * self.scale


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("archive") / "layers.pt"
    torch.jit.save(torch.jit.script(Layers()), path)
    return path


@pytest.mark.parametrize("name", ["weights.pt", "weights.bin", "weights.safetensors"])
def test_a_setstate_is_refused_and_not_run(hostile, tmp_path, name):
    source, victim = hostile
    victim.write_bytes(bytes(64))
    (tmp_path / name).write_bytes(source.read_bytes())
    with pytest.raises(RTDError, match=r"holds pickled objects other than tensors|not a checkpoint") as error:
        read_checkpoint(tmp_path / name)
    assert "\n" not in str(error.value)
    assert victim.read_bytes() == bytes(64)


@pytest.mark.parametrize("marker", ["weights/code/constants.pkl", "other/constants.pkl", "weights/constants.pk"])
def test_a_misplaced_marker_runs_nothing(hostile, tmp_path, marker):
    source, victim = hostile
    victim.write_bytes(bytes(64))
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(tmp_path / "weights.pt", "w") as new:
        for info in old.infolist():
            new.writestr(marker if info.filename.endswith("/constants.pkl") else info.filename, old.read(info))
    with pytest.raises(RTDError, match=r"holds pickled objects other than tensors|not a checkpoint"):
        read_checkpoint(tmp_path / "weights.pt")
    assert victim.read_bytes() == bytes(64)


def test_the_state_dict_is_that_of_torch(archive):
    expected = torch.jit.load(archive).state_dict()
    state = read_checkpoint(archive)
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert (state[name].dtype, state[name].stride()) == (value.dtype, value.stride())
        assert torch.equal(state[name], value)


def rewrite(source: Path, target: Path, name: str, content: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    """Copy an archive with another record in place of one."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            if info.filename.partition("/")[2] == name:
                new.writestr(info.filename, content, compression)
            else:
                new.writestr(info.filename, old.read(info))


def read_record(path: Path, name: str) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read(f"{path.stem}/{name}")


STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ"
MODULE = b"c__torch__\nA\n)\x81"


def build_tensor(arguments: bytes) -> bytes:
    """A pickle of a module with one tensor, a view of the first storage (of 6 float32) with these arguments."""
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + arguments + b"\x89ccollections\nOrderedDict\n)RtR"
    return b"\x80\x02" + MODULE + b"}X\x01\x00\x00\x00w" + tensor + b"sb."


PICKLES = {
    "too large a shape": build_tensor(b"K\x00K\x07\x85K\x01\x85"),
    "no bound": build_tensor(b"K\x00J\xff\xff\xff\x7f\x85K\x00\x85"),
    "beyond the end": build_tensor(b"K\x05K\x02\x85K\x01\x85"),
    "negative offset": build_tensor(b"J\xff\xff\xff\xffK\x01\x85K\x01\x85"),
    "negative stride": build_tensor(b"K\x05K\x02\x85J\xff\xff\xff\xff\x85"),
    "a module in itself": b"\x80\x02" + MODULE + b"q\x00}X\x01\x00\x00\x00ah\x00sb.",
    "2^64 modules": b"\x80\x02" + MODULE + b"q\x00" + (MODULE + b"}(K\x01h\x00K\x02h\x00ubq\x00") * 64 + b".",
    "deep lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "deep modules": b"\x80\x02" + (MODULE + b"}K\x01") * 50_000 + b"N" + b"sb" * 50_000 + b".",
    "a huge memo": b"\x80\x02" + MODULE + b"r\xff\xff\xff\xffh\x05.",
    "a huge text": b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7fx.",
    "a function": b"\x80\x02cos\nmkdir\nX\x03\x00\x00\x00ran\x85R.",
    "an object": b"\x80\x02cos\nmkdir\n)\x81.",
    "nothing": b"",
}


@pytest.mark.parametrize("case", PICKLES)
def test_hostile_pickles_are_refused(archive, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    rewrite(archive, tmp_path / "a.pt", "data.pkl", PICKLES[case])
    with pytest.raises(RTDError, match=r"a\.pt: (holds pickled objects|not a checkpoint)") as error:
        read_checkpoint(tmp_path / "a.pt")
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_a_strided_view_is_read(archive, tmp_path):
    rewrite(archive, tmp_path / "a.pt", "data.pkl", build_tensor(b"K\x01K\x02\x85K\x02\x85"))
    storage = torch.frombuffer(bytearray(read_record(archive, "data/0")), dtype=torch.float32)
    assert torch.equal(read_checkpoint(tmp_path / "a.pt")["w"], storage[1:5:2])


def test_records_that_torch_does_not_write_are_refused(archive, tmp_path):
    content = read_record(archive, "data/0")
    rewrite(archive, tmp_path / "compressed.pt", "data/0", content, zipfile.ZIP_DEFLATED)
    rewrite(archive, tmp_path / "short.pt", "data/0", content[:-1])
    rewrite(archive, tmp_path / "long.pt", "data/0", content + b"x")
    rewrite(archive, tmp_path / "big.pt", "byteorder", b"big")
    rewrite(archive, tmp_path / "large.pt", "data.pkl", bytes(2**23))
    (tmp_path / "twice.pt").write_bytes(archive.read_bytes())
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(tmp_path / "twice.pt", "a") as twice:
        twice.writestr("layers/data/0", content)
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(RTDError, match=r"not a checkpoint, or a broken or truncated one \("):
            read_checkpoint(path)


def test_records_that_share_bytes_are_refused(archive, tmp_path):
    """A zip whose directory names one large record many times claims more than the file has."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(tmp_path / "a.pt", "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
        new.writestr("layers/extra", bytes(10_000))
        (last,) = (info for info in new.filelist if info.filename == "layers/extra")
        new.filelist += [last.__class__(f"layers/extra{index}") for index in range(9)]
        for info in new.filelist[-9:]:
            info.header_offset, info.file_size, info.compress_size, info.CRC = (
                last.header_offset,
                10_000,
                10_000,
                last.CRC,
            )
    with pytest.raises(RTDError, match="its records are larger than the file"):
        read_checkpoint(tmp_path / "a.pt")


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_archives_are_refused(archive, tmp_path, data):
    """Bytes that were flipped, in the file or in its pickle, and truncation give an error or a state dict."""
    in_pickle = data.draw(st.booleans())
    content = bytearray(read_record(archive, "data.pkl") if in_pickle else archive.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    del content[data.draw(st.integers(0, len(content)) | st.just(len(content))) :]
    if in_pickle:
        rewrite(archive, tmp_path / "a.pt", "data.pkl", bytes(content))
    else:
        (tmp_path / "a.pt").write_bytes(content)
    try:
        state = read_checkpoint(tmp_path / "a.pt")
    except RTDError:
        return
    assert all(isinstance(value, torch.Tensor) for value in state.values())


def test_nothing_runs_what_it_reads():
    """No reader that can run code is called in the packages."""
    unsafe = r"jit\.load|pickle\.loads?\(|Unpickler\(|allow_pickle=True|yaml\.(unsafe|full)_load|trust_remote_code"
    for package in ("rtd_plugin", "adapters", "recipes"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(unsafe, text), path
            for call in re.findall(r"torch\.load\(.*", text):
                assert "weights_only=True" in call, path

"""A saved text encoder is loaded unchanged, with its metadata; broken files are refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rtd_plugin import __version__
from rtd_plugin.clip.artifact import (
    FORMAT,
    TextEncoderInfo,
    load_text_encoder,
    read_info,
    save_text_encoder,
)
from rtd_plugin.clip.fingerprint import digest
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.clip.weight_files import FILE_NAME
from rtd_plugin.errors import RTDError

DATA = Path(__file__).parent.parent / "data"
SIZES = {"vocabulary": 300, "context_length": 8, "width": 8, "layers": 2, "heads": 2, "features": 6}


def make_info(tower, **changes):
    values = {
        "version": __version__,
        "activation": tower.activation,
        "heads": tower.heads,
        "backbone": "ViT-Tiny (random)",
        "base_digest": digest(tower),
        "base_probe": [[0.125, -1.0]],
        "adapter": "lincir",
        "projection_digest": "ab" * 32,
        "triplets": ["cd" * 32],
        "step": 12,
    }
    return TextEncoderInfo(**{**values, **changes})


@pytest.fixture(params=["gelu", "quick_gelu"])
def tower(request, randomise):
    return randomise(TextTower(activation=request.param, **SIZES))


@pytest.fixture
def run(tower, tmp_path):
    save_text_encoder(tmp_path / FILE_NAME, tower, make_info(tower))
    return tmp_path


def rewrite(run, **metadata):
    """Save the file again with other metadata."""
    save_file(load_file(run / FILE_NAME), run / FILE_NAME, metadata=metadata)


def metadata_of(run):
    return {name: json.dumps(value) for name, value in read_info(run / FILE_NAME).model_dump().items()}


@pytest.mark.parametrize("part", ["", FILE_NAME])
def test_a_saved_encoder_loads_with_the_same_weights_and_settings(tower, run, part):
    tokens = torch.tensor([[298, 5, 259, 299], [298, 259, 7, 299]])
    loaded = load_text_encoder(str(run / part))
    pseudo = torch.randn(2, 8)
    assert torch.equal(loaded.encode(tokens, pseudo), tower.encode(tokens, pseudo))
    assert (loaded.activation, loaded.heads) == (tower.activation, 2)
    assert not loaded.training
    assert not any(weight.requires_grad for weight in loaded.parameters())


def test_loading_imports_neither_open_clip_nor_torchs_compiler(tower, run):
    """Each takes two seconds."""
    code = "import sys, rtd_plugin; rtd_plugin.load_text_encoder(sys.argv[1])"
    code += "; print(sys.modules.keys() & {'open_clip', 'torch._dynamo', 'transformers'})"
    done = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_metadata_is_read_back(tower, run):
    assert read_info(run / FILE_NAME) == make_info(tower)
    assert read_info(run / FILE_NAME).format == FORMAT


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_encoder_loads_to_a_dtype_and_device(tower, run, dtype):
    loaded = load_text_encoder(run, device="cpu", dtype=dtype)
    assert loaded.dtype == dtype
    assert loaded.device == torch.device("cpu")
    assert load_text_encoder(run).dtype == torch.float32


def test_saving_does_not_change_the_tower(tower, run):
    assert tower.text_projection.requires_grad
    assert [path.name for path in run.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_written(tower, run, value):
    """A diverged run saved an encoder whose features are all NaN."""
    before = (run / FILE_NAME).read_bytes()
    tower.transformer.resblocks[1].mlp.c_fc.weight.data[3, 5] = value
    with pytest.raises(RTDError, match=rf"{FILE_NAME}: not written: .*c_fc\.weight has infinite or NaN values"):
        save_text_encoder(run / FILE_NAME, tower, make_info(tower))
    assert (run / FILE_NAME).read_bytes() == before


def test_weights_that_are_not_finite_are_not_loaded(tower, run):
    weights = {**tower.state_dict(), "ln_final.bias": torch.full((8,), float("nan"))}
    save_file(weights, run / FILE_NAME, metadata=metadata_of(run))
    with pytest.raises(RTDError, match=rf"{FILE_NAME}: ln_final\.bias has infinite or NaN values"):
        load_text_encoder(run)


def test_the_bytes_depend_only_on_the_content(tower, run):
    """The order of a safetensors header's metadata differed from one file to the next."""
    for _ in range(5):  # ten keys in the same order by chance: once in millions
        content = (run / FILE_NAME).read_bytes()
        save_text_encoder(run / FILE_NAME, tower, make_info(tower))
        assert (run / FILE_NAME).read_bytes() == content
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert list(header["__metadata__"]) == sorted(header["__metadata__"])


def test_metadata_may_be_any_text(tower, run):
    info = make_info(tower, backbone='a "quoted" \\ folder/ü\n\x7f\u2028', adapter="é")
    save_text_encoder(run / FILE_NAME, tower, info)
    assert read_info(run / FILE_NAME) == info
    assert torch.equal(load_text_encoder(run).text_projection, tower.text_projection)


def test_a_missing_encoder_is_reported(tmp_path):
    with pytest.raises(RTDError, match="no finished run and no weights in this folder"):
        load_text_encoder(tmp_path)
    with pytest.raises(RTDError, match="none: no such file or folder"):
        load_text_encoder(tmp_path / "none")


@pytest.mark.parametrize("cut", [0, 7, 100, -1])
def test_a_truncated_file_is_refused(run, cut):
    (run / FILE_NAME).write_bytes((run / FILE_NAME).read_bytes()[:cut])
    with pytest.raises(RTDError, match="not a safetensors file, or a broken or truncated one"):
        load_text_encoder(run)


def test_a_file_without_metadata_is_refused(run):
    rewrite(run)
    with pytest.raises(RTDError, match="not a text encoder saved by rtd-plugin: it has no metadata"):
        load_text_encoder(run)


@pytest.mark.parametrize("change", [{"format": "pt"}, {"format": '"1"'}, {"heads": "null"}, {"surplus": "1"}])
def test_a_file_with_other_metadata_is_refused(run, change):
    rewrite(run, **{**metadata_of(run), **change})
    with pytest.raises(RTDError, match="its metadata is not that of a text encoder"):
        load_text_encoder(run)


def test_a_newer_format_is_refused(run):
    rewrite(run, **{**metadata_of(run), "format": "2", "version": '"9.1"', "not_yet_known": "[]"})
    with pytest.raises(RTDError, match=r"written by rtd-plugin 9\.1 in format 2, but .* up to format 1: upgrade"):
        load_text_encoder(run)


def test_incomplete_weights_are_refused(tower, run):
    weights = {name: weight for name, weight in tower.state_dict().items() if name != "ln_final.bias"}
    save_file(weights, run / FILE_NAME, metadata=metadata_of(run))
    with pytest.raises(RTDError, match=rf"{FILE_NAME}: missing key ln_final\.bias"):
        load_text_encoder(run)


def test_format_1_still_loads():
    """A file of format 1, kept since that format's first release, gives the features it gave then."""
    loaded = load_text_encoder(DATA / "text_encoder_format1.safetensors")
    expected = json.loads((DATA / "text_encoder_format1.json").read_text())
    tokens, pseudo = torch.tensor(expected["tokens"]), torch.tensor(expected["pseudo_tokens"])
    found = loaded.encode(tokens, pseudo, placeholder=expected["placeholder"])
    torch.testing.assert_close(found, torch.tensor(expected["features"]), rtol=1e-5, atol=1e-5)
    info = read_info(DATA / "text_encoder_format1.safetensors")
    assert (info.format, info.adapter, info.step, info.base_digest) == (1, "lincir", 12, digest(loaded))

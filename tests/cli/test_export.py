"""`rtd-plugin export`: each layout loads in its own library and gives the same features."""

import json

import open_clip
import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

import rtd_plugin
from rtd_plugin.clip.tokens import tokenize

TEXTS = ["a violin in the rain", "a photo of $ that is red instead", "!"]


def pad_tokens() -> torch.Tensor:
    tokens = tokenize(TEXTS)
    return torch.nn.functional.pad(tokens, (0, 77 - tokens.shape[1]))


@torch.no_grad()
def features(model: CLIPTextModelWithProjection) -> torch.Tensor:
    return model.eval()(input_ids=pad_tokens()).text_embeds


@pytest.fixture(scope="module")
def expected_features(finished_run):
    return rtd_plugin.load_text_encoder(finished_run).encode(tokenize(TEXTS))


@pytest.mark.parametrize("name", ["text.pt", "text.safetensors", "text"])
def test_openai(rtd, finished_run, expected_features, files, name):
    done = rtd("export", finished_run, "--layout", "openai", name)
    assert (done.exit_code, done.stdout) == (0, f"Wrote {name} in the openai layout.\n"), done.stderr
    state = load_file(name) if name.endswith(".safetensors") else torch.load(name, weights_only=True)
    model = open_clip.CLIP(**json.loads((files / "model.json").read_text())).eval()
    loaded = model.load_state_dict(state, strict=False)
    assert not loaded.unexpected_keys
    assert all(key.startswith("visual.") or key == "logit_scale" for key in loaded.missing_keys)
    with torch.no_grad():
        torch.testing.assert_close(model.encode_text(pad_tokens()), expected_features, atol=1e-5, rtol=1e-5)
        model.load_state_dict(torch.load(files / "clip.pt", weights_only=True))
        assert not torch.allclose(model.encode_text(pad_tokens()), expected_features, atol=1e-2)


def test_huggingface_folder(rtd, finished_run, expected_features, tmp_path):
    """`from_pretrained` needs nothing else; what was in the folder before stays."""
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned/notes.txt").touch()
    done = rtd("export", finished_run, "--layout", "huggingface", "tuned", "--json")
    assert json.loads(done.stdout) == {"file": "tuned", "layout": "huggingface"}
    assert sorted(path.name for path in (tmp_path / "tuned").iterdir()) == [
        "config.json",
        "model.safetensors",
        "notes.txt",
    ]
    model, info = CLIPTextModelWithProjection.from_pretrained(tmp_path / "tuned", output_loading_info=True)
    assert not any(info.values())
    torch.testing.assert_close(features(model), expected_features, atol=1e-5, rtol=1e-5)


def huggingface_model() -> CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        hidden_size=64,
        intermediate_size=256,
        projection_dim=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_act="gelu",
        eos_token_id=49407,
    )
    return CLIPTextModelWithProjection(config)


@pytest.mark.parametrize("name", ["text.bin", "text.safetensors"])
def test_huggingface_file(rtd, finished_run, expected_features, name):
    assert rtd("export", finished_run, "--layout", "huggingface", name).exit_code == 0
    model = huggingface_model()
    model.load_state_dict(load_file(name) if name.endswith(".safetensors") else torch.load(name, weights_only=True))
    torch.testing.assert_close(features(model), expected_features, atol=1e-5, rtol=1e-5)


def test_rtd(rtd, finished_run, expected_features):
    """As the authors' code reads it, but without trusting the file."""
    assert rtd("export", finished_run / "text_encoder.safetensors", "--layout", "rtd", "text.pt").exit_code == 0
    model = huggingface_model()
    model.load_state_dict(torch.load("text.pt", weights_only=True)["CLIPTextModelWithProjection"])
    torch.testing.assert_close(features(model), expected_features, atol=1e-5, rtol=1e-5)


def test_an_existing_file_is_replaced(rtd, finished_run, tmp_path):
    (tmp_path / "text.pt").write_text("before")
    assert rtd("export", finished_run, "--layout", "openai", "text.pt").exit_code == 0
    assert "ln_final.weight" in torch.load("text.pt", weights_only=True)
    assert [path.name for path in tmp_path.iterdir()] == ["text.pt"]


@pytest.mark.parametrize(
    ("run", "args", "code", "says"),
    [
        ("none", ["openai", "text.pt"], 1, "none: no such file or folder"),
        (".", ["openai", "text.pt"], 1, "no finished run and no weights in this folder"),
        ("bad", ["openai", "text.pt"], 1, "bad: not a safetensors file"),
        ("RUN", ["rtd", "text.safetensors"], 2, "files of torch.save only: end the name in .pt"),
        ("RUN", ["openai", "full"], 1, "full: cannot be written (it is a folder"),
        ("RUN", ["openai", "bad/text.pt"], 1, "bad/text.pt: cannot be written ("),
        ("RUN", ["huggingface", "bad"], 1, "cannot be written ("),
        ("RUN", ["openai", "RUN/text_encoder.safetensors"], 2, "is the run's own text encoder"),
        ("RUN", ["nope", "text.pt"], 2, "'nope' is not one of 'openai', 'huggingface', 'rtd'"),
    ],
)
def test_impossible_exports_are_refused(rtd, finished_run, tmp_path, run, args, code, says):
    (tmp_path / "bad").write_text("no run")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").touch()
    before = (finished_run / "text_encoder.safetensors").read_bytes()
    layout, file = (arg.replace("RUN", str(finished_run)) for arg in args)
    done = rtd("export", run.replace("RUN", str(finished_run)), "--layout", layout, file)
    assert (done.exit_code, done.stdout) == (code, "")
    assert says in done.stderr
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["bad", "full", "full/notes.txt"]
    assert (tmp_path / "bad").read_text() == "no run"
    assert (finished_run / "text_encoder.safetensors").read_bytes() == before

"""Shims repair faults of hosts, report it, and can be switched off."""

import sys
from pathlib import Path

import pytest
import torch
from rtd_adapters.lincir_shims import keep_causal_mask

from rtd_plugin.contract.composition import Composition, compose
from rtd_plugin.errors import UsageError

TEXTS = torch.tensor([[49406, 320, 265, 682, 49407], [49406, 5, 265, 6, 49407], [49406, 7, 265, 8, 49407]])
PSEUDO_TOKENS = torch.linspace(-1, 1, 3 * 64).reshape(3, 64)


@pytest.fixture
def evaluate(patch_host, rtd, files, tmp_path):
    """Runs the miniature Pic2Word's evaluation, some shims switched off."""

    def evaluate(*more: str, without: tuple[str, ...] = ()):
        manifest = patch_host("pic2word", without_shims=without)
        command = [sys.executable, "src/eval_retrieval.py", files.clip, tmp_path / "result.pt", *more]
        return rtd("run", manifest.folder, "--", *command, cwd=Path(manifest.host), PYTHONPATH="src:.")

    return evaluate


def test_pic2words_evaluation_works(evaluate, files, tmp_path):
    done = evaluate()
    assert (done.returncode, done.stdout) == (0, "R@1: 50.00\n"), done.stderr
    assert done.stderr == (
        "rtd-plugin: 3 composed queries used the tuned text encoder; repaired: distributed, gallery-names\n"
    )
    features = torch.load(tmp_path / "result.pt", weights_only=True)
    composition = Composition(None, TEXTS, PSEUDO_TOKENS, 265)
    torch.testing.assert_close(features["composed"], compose(files.tuned, composition), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(features["plain"], files.base.encode(TEXTS), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("without", "error", "counted"),
    [
        (("distributed",), "AttributeError: 'Namespace' object has no attribute 'distributed'", "no composed query"),
        (("gallery-names",), "AssertionError: ", "3 composed queries"),
    ],
)
def test_what_the_evaluation_swallows_is_shown(evaluate, without, error, counted):
    """With its traceback, and exit code 1."""
    done = evaluate(without=without)
    assert (done.returncode, done.stdout) == (1, "evaluation done\n")
    assert "Traceback (most recent call last)" in done.stderr
    line = done.stderr.splitlines()[-1]
    assert counted in line
    assert "swallowed-errors" in line
    assert line.endswith(f"; the host hid an error: {error}".rstrip())


@pytest.mark.slow
def test_without_shims_the_host_fails_silently(evaluate):
    done = evaluate(without=("distributed", "gallery-names", "swallowed-errors"))
    assert (done.returncode, done.stdout) == (0, "evaluation done\n")
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("rtd-plugin: warning: no composed query used the tuned text encoder: ")
    assert "repaired" not in done.stderr


def test_an_unknown_shim_is_refused(patch_host):
    with pytest.raises(UsageError, match="pic2word has no shim 'names': it has distributed, gallery-names, swallowed"):
        patch_host("pic2word", without_shims=["names"])


LINCIR = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from train_phi import step
from transformers import CLIPTextConfig, CLIPTextModelWithProjection
sizes = dict(hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=1, projection_dim=32)
model = CLIPTextModelWithProjection(CLIPTextConfig(hidden_act="quick_gelu", eos_token_id=49407, **sizes))
model.load_state_dict(torch.load(sys.argv[2], weights_only=True))
text = torch.zeros(2, 77, dtype=torch.int64)
text[:, :6] = torch.tensor([[49406, 320, 259, 682, 49407, 0], [49406, 259, 8, 7, 9, 49407]])
outputs = step(model.eval(), text, torch.linspace(-1, 1, 128).reshape(2, 64))
torch.save([output.detach() for output in outputs], sys.argv[3])
"""


@pytest.mark.slow
@pytest.mark.parametrize("switched_off", [False, True])
def test_training_of_lincir_is_causal_with_the_shim(patch_host, rtd, files, write_program, tmp_path, switched_off):
    """Training composes with the pre-trained text encoder, whose causal mask this transformers ignores."""
    from rtd_plugin.clip.layouts import write_state_dict

    manifest = patch_host("lincir", without_shims=["causal-mask"] if switched_off else [])
    torch.save(write_state_dict(files.base.state_dict(), "huggingface"), tmp_path / "clip.pt")
    command = [*write_program(LINCIR), manifest.host, tmp_path / "clip.pt", tmp_path / "result.pt"]
    done = rtd("run", manifest.folder, "--", *command)
    assert done.returncode == 0, done.stderr
    features, states = torch.load(tmp_path / "result.pt", weights_only=True)
    text = torch.zeros(2, 77, dtype=torch.int64)
    text[:, :6] = torch.tensor([[49406, 320, 259, 682, 49407, 0], [49406, 259, 8, 7, 9, 49407]])
    composition = Composition(None, text, torch.linspace(-1, 1, 128).reshape(2, 64), 259, hidden_states=True)
    expected = compose(files.base, composition)
    assert torch.allclose(features, expected[0], atol=1e-4) is not switched_off
    assert torch.allclose(states, expected[1], atol=1e-4) is not switched_off
    line = done.stderr.splitlines()[-1]
    assert "1 call from training code kept the pre-trained one" in line
    assert ("repaired: causal-mask" in line) is not switched_off


class Output(dict):
    def to_tuple(self):
        return tuple(self.values())


def old(self, inputs_embeds, attention_mask=None, causal_attention_mask=None, return_dict=None):
    """transformers up to 4.53."""
    return "unchanged", inputs_embeds, attention_mask, causal_attention_mask, return_dict


def middle(self, inputs_embeds, attention_mask=None, causal_attention_mask=None):
    """transformers 4.54 to 4.57."""
    return Output(x=inputs_embeds, attention=attention_mask, causal=causal_attention_mask)


def new(self, inputs_embeds, attention_mask=None, **kwargs):
    """transformers 5."""
    return Output(x=inputs_embeds, attention=attention_mask, more=kwargs)


@pytest.mark.parametrize(
    ("encoder", "arguments", "expected", "reported"),
    [
        (old, {"causal_attention_mask": 2, "return_dict": False}, ("unchanged", 1, None, 2, False), False),
        (middle, {"causal_attention_mask": 2, "return_dict": False}, (1, None, 2), True),
        (middle, {"causal_attention_mask": 2}, Output(x=1, attention=None, causal=2), False),
        (new, {"causal_attention_mask": 2, "return_dict": False}, (1, 2, {}), True),
        (new, {"causal_attention_mask": 2, "attention_mask": 5}, Output(x=1, attention=7, more={}), True),
        (new, {"attention_mask": 5, "is_causal": True}, Output(x=1, attention=5, more={"is_causal": True}), False),
    ],
)
def test_the_causal_mask_reaches_encoders_of_every_transformers_version(encoder, arguments, expected, reported):
    reports = []
    result = keep_causal_mask(encoder, lambda: reports.append(True), "self", inputs_embeds=1, **arguments)
    assert result == expected
    assert bool(reports) == reported

"""The tuned text encoder inside a host: its device, dtype and rounding, and the check of its base."""

import pytest
import torch
from clip.model import CLIP, convert_weights
from safetensors.torch import save_file

from rtd_plugin.clip.layouts import write_state_dict
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.clip.tuned_encoder import read_weights
from rtd_plugin.contract.composition import Composition, compose
from rtd_plugin.errors import RTDError
from rtd_plugin.patching import host_encoder
from rtd_plugin.patching.host_encoder import HostEncoder

SIZES = (32, 16, 1, 64, 16, 77, 49408, 64, 1, 2)
TOKENS = torch.tensor([[49406, 320, 259, 682, 49407, 0], [49406, 259, 8, 7, 9, 49407]])


@pytest.fixture
def model(files):
    model = CLIP(*SIZES).eval()
    model.load_state_dict(torch.load(files.clip, weights_only=True))
    return model


@pytest.fixture
def make_encoder(patch_host):
    return lambda weights=None, **settings: HostEncoder(patch_host("searle", weights, **settings))


@pytest.fixture
def pseudo_tokens():
    return torch.randn(2, 64)


def assert_close(result, expected):
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def compose_inside(encoder, model, pseudo_tokens):
    return encoder.compose(Composition(model, TOKENS, pseudo_tokens, 259))


def compose_exactly(tower, pseudo_tokens):
    return compose(tower, Composition(None, TOKENS, pseudo_tokens, 259))


def test_weights_loaded_later_by_the_host_change_nothing(make_encoder, files, model, pseudo_tokens):
    """Pic2Word loads its checkpoint after it has built the model; other hosts may reload at any time."""
    encoder = make_encoder()
    expected = compose_exactly(files.tuned, pseudo_tokens)
    assert_close(compose_inside(encoder, model, pseudo_tokens), expected)
    for weight in model.parameters():
        weight.data.zero_()
    assert_close(compose_inside(encoder, model, pseudo_tokens), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_features_have_the_dtype_of_the_host(make_encoder, files, model, pseudo_tokens, dtype):
    expected = compose_exactly(files.tuned, pseudo_tokens)
    result = compose_inside(make_encoder(), model.to(dtype), pseudo_tokens.to(dtype))
    assert result.dtype == dtype
    difference = (result.float() - expected).abs().max() / expected.abs().max()
    assert 0 < difference < 0.05


def test_a_model_of_mixed_dtypes_is_read_by_its_projection(make_encoder, model, pseudo_tokens):
    """OpenAI's fp16 models keep their embeddings and norms in fp32."""
    convert_weights(model)
    assert {weight.dtype for weight in model.parameters()} == {torch.float16, torch.float32}
    assert compose_inside(make_encoder(), model, pseudo_tokens).dtype == torch.float16


def test_a_process_may_use_two_dtypes(make_encoder, files, model, pseudo_tokens):
    encoder = make_encoder()
    half = compose_inside(encoder, model.half(), pseudo_tokens)
    full = compose_inside(encoder, model.float(), pseudo_tokens)
    assert (half.dtype, full.dtype) == (torch.float16, torch.float32)
    assert_close(full, compose_exactly(files.tuned, pseudo_tokens))


def test_autocast_of_the_host_applies(make_encoder, files, model, pseudo_tokens):
    encoder = make_encoder()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert compose_inside(encoder, model, pseudo_tokens).dtype == torch.bfloat16
    assert_close(compose_inside(encoder, model, pseudo_tokens), compose_exactly(files.tuned, pseudo_tokens))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_flow_through_a_composed_query(make_encoder, files, model, pseudo_tokens, mode):
    """Also if the encoder was loaded while gradients were disabled."""
    encoder = make_encoder()
    with mode():
        compose_inside(encoder, model, pseudo_tokens)
    result, expected = pseudo_tokens.clone().requires_grad_(), pseudo_tokens.clone().requires_grad_()
    compose_inside(encoder, model, result).square().sum().backward()
    compose_exactly(files.tuned, expected).square().sum().backward()
    assert expected.grad.abs().max() > 0.1
    torch.testing.assert_close(result.grad, expected.grad, rtol=1e-4, atol=1e-4)
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("blend", [0, 0.25, 1])
def test_a_blend_lies_between_the_two_encoders(make_encoder, files, model, pseudo_tokens, blend):
    state = {
        name: (1 - blend) * weight + blend * files.tuned.state_dict()[name]
        for name, weight in files.base.state_dict().items()
    }
    for name in state:  # the host holds values of fp16, so that a checkpoint of the blend would be rounded too
        state[name] = state[name].half().float()
    expected = compose_exactly(TextTower.from_state_dict(state), pseudo_tokens)
    assert_close(compose_inside(make_encoder(blend=blend), model, pseudo_tokens), expected)


def test_weights_are_rounded_as_the_host_rounds_them(make_encoder, files, model, pseudo_tokens, tmp_path):
    """A host that loaded its weights in fp16 and holds them in fp32 would have rounded a tuned checkpoint too.

    OpenAI's package rounds only what `convert_weights` names.
    """
    generator = torch.Generator().manual_seed(3)
    tuned = {n: w + 1e-2 * torch.randn(w.shape, generator=generator) for n, w in files.base.state_dict().items()}
    save_file(tuned, tmp_path / "fine.safetensors")
    rounds_all = compose_inside(make_encoder(tmp_path / "fine.safetensors"), model, pseudo_tokens)
    half = {name: weight.half().float() for name, weight in tuned.items()}
    assert_close(rounds_all, compose_exactly(TextTower.from_state_dict(half), pseudo_tokens))

    model.token_embedding.weight.data += 1e-6
    rounds_matrices = compose_inside(make_encoder(tmp_path / "fine.safetensors", folder="2"), model, pseudo_tokens)
    rounded = CLIP(*SIZES)
    rounded.load_state_dict({**rounded.state_dict(), **tuned})
    convert_weights(rounded)
    assert_close(rounds_matrices, compose_exactly(TextTower.from_state_dict(rounded.state_dict()), pseudo_tokens))

    model.text_projection.data += 1e-6
    rounds_nothing = compose_inside(make_encoder(tmp_path / "fine.safetensors", folder="3"), model, pseudo_tokens)
    assert_close(rounds_nothing, compose_exactly(TextTower.from_state_dict(tuned), pseudo_tokens))
    assert (rounds_all - rounds_matrices).abs().max() > 1e-4
    assert (rounds_nothing - rounds_matrices).abs().max() > 1e-4


def test_nothing_is_rounded_for_a_host_that_loads_weights_in_fp32(patch_host, files, model, pseudo_tokens, tmp_path):
    tuned = {name: weight + 1e-2 * torch.rand(weight.shape) for name, weight in files.base.state_dict().items()}
    save_file(tuned, tmp_path / "fine.safetensors")
    encoder = HostEncoder(patch_host("pic2word", tmp_path / "fine.safetensors"))
    assert_close(
        compose_inside(encoder, model, pseudo_tokens), compose_exactly(TextTower.from_state_dict(tuned), pseudo_tokens)
    )


def test_another_clip_is_an_error(make_encoder, files, model, pseudo_tokens):
    with pytest.raises(RTDError) as error:
        compose_inside(make_encoder(files.other), model, pseudo_tokens)
    message = str(error.value)
    assert "other.safetensors was tuned from ViT-Tiny (other), but" in message
    assert "the host has CLIP (width 64, 2 layers, features of 32) with other weights" in message
    assert "patch with --force" in message


def test_each_model_is_checked_before_its_first_query(make_encoder, model, pseudo_tokens, randomise):
    encoder = make_encoder()
    compose_inside(encoder, model, pseudo_tokens)
    with pytest.raises(RTDError, match="with other weights"):
        compose_inside(encoder, randomise(CLIP(*SIZES), seed=8), pseudo_tokens)


def test_force_skips_the_check(make_encoder, files, model, pseudo_tokens):
    assert_close(
        compose_inside(make_encoder(files.other, force=True), model, pseudo_tokens),
        compose_exactly(files.tuned, pseudo_tokens),
    )


@pytest.mark.parametrize("force", [False, True])
def test_a_clip_of_another_size_never_fits(make_encoder, pseudo_tokens, randomise, force):
    wider = randomise(CLIP(48, 16, 1, 64, 16, 77, 49408, 64, 1, 2))
    with pytest.raises(
        RTDError, match=r"but the host has CLIP \(width 64, 2 layers, features of 48\): they do not fit"
    ):
        compose_inside(make_encoder(force=force), wider, pseudo_tokens)


def test_a_model_that_is_not_a_clip_needs_force(make_encoder, files, pseudo_tokens):
    model = torch.nn.Linear(2, 2)
    with pytest.raises(RTDError, match="the host's model cannot be compared with the tuned text encoder's base"):
        compose_inside(make_encoder(), model, pseudo_tokens)
    assert_close(
        compose_inside(make_encoder(force=True, folder="2"), model, pseudo_tokens),
        compose_exactly(files.tuned, pseudo_tokens),
    )


@pytest.mark.parametrize("layout", ["openai", "huggingface", "rtd"])
def test_text_encoders_in_other_layouts_are_used(make_encoder, files, model, pseudo_tokens, tmp_path, layout):
    """They record no base; activation and heads are those of the host."""
    file = tmp_path / "tuned.pt"
    torch.save(write_state_dict(files.tuned.state_dict(), layout), file)
    weights = read_weights(file)
    assert (weights.base, weights.base_probe, weights.activation) == (None, None, None)
    assert_close(compose_inside(make_encoder(file), model, pseudo_tokens), compose_exactly(files.tuned, pseudo_tokens))


def build_gelu_model(library):
    """Return a CLIP whose text tower has gelu and 4 heads."""
    if library == "open_clip":
        import open_clip

        vision = {"layers": 1, "width": 64, "patch_size": 16, "image_size": 16}
        return open_clip.CLIP(32, vision, {"width": 64, "heads": 4, "layers": 2}).eval()
    model = CLIP(*SIZES[:8], 4, 2).eval()
    for block in model.transformer.resblocks:
        block.mlp.gelu = torch.nn.GELU()
    return model


@pytest.mark.parametrize("library", ["clip", pytest.param("open_clip", marks=pytest.mark.slow)])
def test_the_activation_of_the_host_is_used_where_none_is_recorded(
    files, make_encoder, pseudo_tokens, tmp_path, library
):
    """Weights trained with open_clip have gelu, but do not record it."""
    model = build_gelu_model(library)
    model.load_state_dict({**model.state_dict(), **files.base.state_dict()})
    save_file(files.tuned.state_dict(), tmp_path / "tuned.safetensors")
    tower = TextTower.from_state_dict(files.tuned.state_dict(), activation="gelu", heads=4)
    expected = compose_exactly(tower, pseudo_tokens)
    assert (expected - compose_exactly(files.tuned, pseudo_tokens)).abs().max() > 0.1
    assert_close(compose_inside(make_encoder(tmp_path / "tuned.safetensors"), model, pseudo_tokens), expected)


def test_changed_weights_are_refused(make_encoder, files, model, pseudo_tokens, tmp_path):
    save_file(files.tuned.state_dict(), tmp_path / "tuned.safetensors")
    encoder = make_encoder(tmp_path / "tuned.safetensors")
    save_file(files.base.state_dict(), tmp_path / "tuned.safetensors")
    with pytest.raises(RTDError, match="has changed since the host was patched: patch it again"):
        compose_inside(encoder, model, pseudo_tokens)
    (tmp_path / "tuned.safetensors").unlink()
    assert_close(compose_inside(encoder, model, pseudo_tokens), compose_exactly(files.tuned, pseudo_tokens))


def test_an_older_torch_is_refused(make_encoder, monkeypatch):
    monkeypatch.setattr(host_encoder, "VERSION", (1, 10))
    with pytest.raises(RTDError, match=r"the patch needs torch 1\.11 or newer, but here it is"):
        make_encoder()

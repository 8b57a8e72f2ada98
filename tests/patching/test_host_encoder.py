"""The tuned text encoder inside a host: where, as and of what the host's model is."""

import pytest
import torch
from clip.model import CLIP, convert_weights
from safetensors.torch import save_file

from rtd_plugin.clip.layouts import write_state_dict
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.clip.tuned_encoder import read_weights
from rtd_plugin.contract.composition import Composition, compose
from rtd_plugin.errors import RTDError
from rtd_plugin.patching.host_encoder import HostEncoder

SIZES = (32, 16, 1, 64, 16, 77, 49408, 64, 1, 2)
TOKENS = torch.tensor([[49406, 320, 259, 682, 49407, 0], [49406, 259, 8, 7, 9, 49407]])


@pytest.fixture
def model(files):
    model = CLIP(*SIZES).eval()
    model.load_state_dict(torch.load(files.clip, weights_only=True))
    return model


@pytest.fixture
def encoder(patch_host):
    return lambda weights=None, **settings: HostEncoder(patch_host("searle", weights, **settings))


@pytest.fixture
def pseudo_tokens():
    return torch.randn(2, 64)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def composed(encoder, model, pseudo_tokens):
    return encoder.compose(Composition(model, TOKENS, pseudo_tokens, 259))


def with_tower(tower, pseudo_tokens):
    return compose(tower, Composition(None, TOKENS, pseudo_tokens, 259))


def test_the_hosts_weights_make_no_difference_later(encoder, files, model, pseudo_tokens):
    """Pic2Word loads its checkpoint after it has built the model; others may reload at any time."""
    one = encoder()
    expected = with_tower(files.tuned, pseudo_tokens)
    close(composed(one, model, pseudo_tokens), expected)
    for weight in model.parameters():
        weight.data.zero_()
    close(composed(one, model, pseudo_tokens), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_it_has_the_dtype_of_the_host(encoder, files, model, pseudo_tokens, dtype):
    expected = with_tower(files.tuned, pseudo_tokens)
    found = composed(encoder(), model.to(dtype), pseudo_tokens.to(dtype))
    assert found.dtype == dtype
    difference = (found.float() - expected).abs().max() / expected.abs().max()
    assert 0 < difference < 0.05


def test_a_model_of_mixed_dtypes_is_read_by_its_projection(encoder, model, pseudo_tokens):
    """OpenAI's fp16 models keep their embeddings and norms in fp32."""
    convert_weights(model)
    assert {weight.dtype for weight in model.parameters()} == {torch.float16, torch.float32}
    assert composed(encoder(), model, pseudo_tokens).dtype == torch.float16


def test_two_dtypes_in_one_process(encoder, files, model, pseudo_tokens):
    one = encoder()
    half = composed(one, model.half(), pseudo_tokens)
    full = composed(one, model.float(), pseudo_tokens)
    assert (half.dtype, full.dtype) == (torch.float16, torch.float32)
    close(full, with_tower(files.tuned, pseudo_tokens))


def test_autocast_is_the_hosts(encoder, files, model, pseudo_tokens):
    one = encoder()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert composed(one, model, pseudo_tokens).dtype == torch.bfloat16
    close(composed(one, model, pseudo_tokens), with_tower(files.tuned, pseudo_tokens))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_flow_through_a_composed_query(encoder, files, model, pseudo_tokens, mode):
    """Also if the encoder was loaded where the host wanted none."""
    one = encoder()
    with mode():
        composed(one, model, pseudo_tokens)
    found, expected = pseudo_tokens.clone().requires_grad_(), pseudo_tokens.clone().requires_grad_()
    composed(one, model, found).square().sum().backward()
    with_tower(files.tuned, expected).square().sum().backward()
    assert expected.grad.abs().max() > 0.1
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-4)
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("blend", [0, 0.25, 1])
def test_blend(encoder, files, model, pseudo_tokens, blend):
    state = {
        name: (1 - blend) * weight + blend * files.tuned.state_dict()[name]
        for name, weight in files.base.state_dict().items()
    }
    for name in state:  # the host holds values of fp16, so that a checkpoint of the blend would be rounded too
        state[name] = state[name].half().float()
    expected = with_tower(TextTower.from_state_dict(state), pseudo_tokens)
    close(composed(encoder(blend=blend), model, pseudo_tokens), expected)


def test_rounded_as_the_hosts_own(encoder, files, model, pseudo_tokens, tmp_path):
    """A host that loaded its weights in fp16 and holds them in fp32 would have rounded a tuned checkpoint too.

    OpenAI's package rounds what `convert_weights` names and nothing else.
    """
    generator = torch.Generator().manual_seed(3)
    tuned = {n: w + 1e-2 * torch.randn(w.shape, generator=generator) for n, w in files.base.state_dict().items()}
    save_file(tuned, tmp_path / "fine.safetensors")
    rounds_all = composed(encoder(tmp_path / "fine.safetensors"), model, pseudo_tokens)
    half = {name: weight.half().float() for name, weight in tuned.items()}
    close(rounds_all, with_tower(TextTower.from_state_dict(half), pseudo_tokens))

    model.token_embedding.weight.data += 1e-6
    rounds_matrices = composed(encoder(tmp_path / "fine.safetensors", folder="2"), model, pseudo_tokens)
    theirs = CLIP(*SIZES)
    theirs.load_state_dict({**theirs.state_dict(), **tuned})
    convert_weights(theirs)
    close(rounds_matrices, with_tower(TextTower.from_state_dict(theirs.state_dict()), pseudo_tokens))

    model.text_projection.data += 1e-6
    rounds_nothing = composed(encoder(tmp_path / "fine.safetensors", folder="3"), model, pseudo_tokens)
    close(rounds_nothing, with_tower(TextTower.from_state_dict(tuned), pseudo_tokens))
    assert (rounds_all - rounds_matrices).abs().max() > 1e-4
    assert (rounds_nothing - rounds_matrices).abs().max() > 1e-4


def test_another_clip_is_an_error(encoder, files, model, pseudo_tokens):
    with pytest.raises(RTDError) as error:
        composed(encoder(files.other), model, pseudo_tokens)
    message = str(error.value)
    assert "other.safetensors was tuned from ViT-Tiny (other), but" in message
    assert "the host has CLIP (width 64, 2 layers, features of 32) with other weights" in message
    assert "patch with --force" in message


def test_it_is_checked_before_the_first_query_and_for_each_model(encoder, model, pseudo_tokens, randomised):
    one = encoder()
    composed(one, model, pseudo_tokens)
    with pytest.raises(RTDError, match="with other weights"):
        composed(one, randomised(CLIP(*SIZES), seed=8), pseudo_tokens)


def test_force(encoder, files, model, pseudo_tokens):
    close(composed(encoder(files.other, force=True), model, pseudo_tokens), with_tower(files.tuned, pseudo_tokens))


@pytest.mark.parametrize("force", [False, True])
def test_a_clip_of_another_size_never_fits(encoder, pseudo_tokens, randomised, force):
    wider = randomised(CLIP(48, 16, 1, 64, 16, 77, 49408, 64, 1, 2))
    with pytest.raises(
        RTDError, match=r"but the host has CLIP \(width 64, 2 layers, features of 48\): they do not fit"
    ):
        composed(encoder(force=force), wider, pseudo_tokens)


def test_a_model_that_is_no_clip(encoder, files, pseudo_tokens):
    model = torch.nn.Linear(2, 2)
    with pytest.raises(RTDError, match="the host's model cannot be compared with the tuned text encoder's base"):
        composed(encoder(), model, pseudo_tokens)
    close(composed(encoder(force=True, folder="2"), model, pseudo_tokens), with_tower(files.tuned, pseudo_tokens))


@pytest.mark.parametrize("layout", ["openai", "huggingface", "rtd"])
def test_layouts(encoder, files, model, pseudo_tokens, tmp_path, layout):
    """Text encoders of others: no base is recorded, activation and heads are the host's."""
    file = tmp_path / "tuned.pt"
    torch.save(write_state_dict(files.tuned.state_dict(), layout), file)
    weights = read_weights(file)
    assert (weights.base, weights.base_probe, weights.activation) == (None, None, None)
    close(composed(encoder(file), model, pseudo_tokens), with_tower(files.tuned, pseudo_tokens))


def test_the_activation_of_the_host_counts_where_none_is_recorded(files, encoder, pseudo_tokens, tmp_path):
    """Weights trained with open_clip have gelu, and do not say so."""
    import open_clip

    vision = {"layers": 1, "width": 64, "patch_size": 16, "image_size": 16}
    text = {"width": 64, "heads": 4, "layers": 2}
    model = open_clip.CLIP(32, vision, text).eval()
    model.load_state_dict({**model.state_dict(), **files.base.state_dict()})
    save_file(files.tuned.state_dict(), tmp_path / "tuned.safetensors")
    tower = TextTower.from_state_dict(files.tuned.state_dict(), activation="gelu", heads=4)
    expected = with_tower(tower, pseudo_tokens)
    assert (expected - with_tower(files.tuned, pseudo_tokens)).abs().max() > 0.1
    close(composed(encoder(tmp_path / "tuned.safetensors"), model, pseudo_tokens), expected)


def test_weights_that_have_changed(encoder, files, model, pseudo_tokens, tmp_path):
    save_file(files.tuned.state_dict(), tmp_path / "tuned.safetensors")
    one = encoder(tmp_path / "tuned.safetensors")
    save_file(files.base.state_dict(), tmp_path / "tuned.safetensors")
    with pytest.raises(RTDError, match="has changed since the host was patched: patch it again"):
        composed(one, model, pseudo_tokens)

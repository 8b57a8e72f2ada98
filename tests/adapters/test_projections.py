"""Each method's projection module and the checkpoints that are read as one, or refused."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from rtd_adapters import im2text, lincir, phi, pic2word, searle
from safetensors.torch import save_file

from rtd_plugin.contract.adapter import load_projection
from rtd_plugin.errors import RTDError

D, W = 12, 8
ADAPTERS = {"lincir": lincir.LinCIR(), "searle": searle.SEARLE(), "pic2word": pic2word.Pic2Word()}
PHI_KEYS = {
    "layers.0.weight": (4 * D, D),
    "layers.0.bias": (4 * D,),
    "layers.3.weight": (4 * D, 4 * D),
    "layers.3.bias": (4 * D,),
    "layers.6.weight": (W, 4 * D),
    "layers.6.bias": (W,),
}
# The first layer, some bias, the last layer and its bias.
KEYS = dict.fromkeys(ADAPTERS, ("layers.0.weight", "layers.3.bias", "layers.6.weight", "layers.6.bias"))
KEYS["pic2word"] = ("layers.0.0.weight", "layers.1.0.bias", "fc_out.weight", "fc_out.bias")
WHOLE_CLIP = {"visual.proj": torch.zeros(3, D), "token_embedding.weight": torch.zeros(5, W)}


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture(params=ADAPTERS)
def adapter(request):
    return ADAPTERS[request.param]


@pytest.fixture
def projection(adapter, randomise):
    return randomise(im2text.Im2Text(D, W) if adapter.name == "pic2word" else phi.Phi(D, W))


def add_prefix(state):
    return {f"module.{key}": value for key, value in state.items()}


def native(adapter, state):
    """A checkpoint as the method's own training program writes it."""
    if adapter.name != "pic2word":
        return {"epoch": 7, "Phi": state}
    return {"epoch": 7, "state_dict": add_prefix(WHOLE_CLIP), "state_dict_img2text": add_prefix(state), "optimizer": {}}


FORMS = {
    "native": native,
    "plain": lambda _adapter, state: state,
    "half": lambda adapter, state: native(adapter, {key: value.half() for key, value in state.items()}),
    "one GPU": lambda _adapter, state: {"state_dict": WHOLE_CLIP, "state_dict_img2text": state},
    "DDP": lambda adapter, state: native(adapter, add_prefix(state)),
    "DDP, the weights alone": lambda _adapter, state: add_prefix(state),
    "numbers of numpy": lambda adapter, state: native(adapter, state) | {"epoch": np.int64(7), "loss": np.float64(0.5)},
    "Lightning": lambda _adapter, state: {"state_dict": {f"phi.{key}": value for key, value in state.items()}},
}
OF_ALL = (*(form for form in FORMS if form != "one GPU"), "safetensors")
OF_PIC2WORD = (*OF_ALL, "one GPU")


@pytest.mark.parametrize(
    ("adapter", "form"),
    [(name, form) for name in ADAPTERS for form in (OF_PIC2WORD if name == "pic2word" else OF_ALL)],
    indirect=["adapter"],
)
def test_every_form_of_checkpoint_is_read(adapter, projection, tmp_path, form):
    state, path = projection.state_dict(), tmp_path / "projection.pt"
    if form == "safetensors":
        path = tmp_path / "projection.safetensors"
        save_file(state, path)
    else:
        torch.save(FORMS[form](adapter, state), path)
    if form == "Lightning":
        path = tmp_path / "projection.pt#state_dict.phi"
    loaded, features = load_projection(adapter, path, D, W), torch.randn(3, D)
    assert loaded(features).shape == (3, W)
    torch.testing.assert_close(loaded(features), projection(features), rtol=0, atol=0.02 if form == "half" else 0)
    assert torch.pdist(loaded(features)).min() > 0.1
    assert not loaded.training
    assert not any(weight.requires_grad for weight in loaded.parameters())
    assert {weight.dtype for weight in loaded.parameters()} == {torch.float32}


def test_weights_that_are_not_finite_are_refused(adapter, projection, tmp_path):
    """Otherwise training and evaluation run without an error on pseudo tokens of NaN."""
    key = KEYS[adapter.name][0]
    state = projection.state_dict()
    state[key].view(-1)[3] = float("nan")
    torch.save(native(adapter, state), tmp_path / "projection.pt")
    with pytest.raises(RTDError, match=rf"projection\.pt: {re.escape(key)} has infinite or NaN values"):
        load_projection(adapter, tmp_path / "projection.pt", D, W)


def test_a_projection_for_other_features_is_refused(adapter, projection, tmp_path):
    torch.save(native(adapter, projection.state_dict()), tmp_path / "projection.pt")
    message = rf"projection\.pt: {re.escape(KEYS[adapter.name][0])} has shape .*, but .* features of size 16 .* needs"
    with pytest.raises(RTDError, match=message):
        load_projection(adapter, tmp_path / "projection.pt", 16, W)


def test_a_projection_for_another_token_width_is_refused(adapter, projection, tmp_path):
    torch.save(native(adapter, projection.state_dict()), tmp_path / "projection.pt")
    last = KEYS[adapter.name][2]
    hidden = projection.state_dict()[last].shape[1]
    message = re.escape(f"{last} has shape ({W}, {hidden}), but a backbone with features of size {D} ")
    with pytest.raises(RTDError, match=message + rf".* width 9 needs \(9, {hidden}\)"):
        load_projection(adapter, tmp_path / "projection.pt", D, W + 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state, keys: state.pop(keys[1]), "not a projection of {name}: missing key {keys[1]}"),
        (lambda state, keys: state.update(extra=torch.zeros(1)), "not a projection of {name}: unexpected key extra"),
        (
            lambda state, keys: state.update({keys[3]: 3}),
            "not a projection of {name}: {keys[3]} is a int, not a tensor",
        ),
        (lambda state, keys: state.update({keys[2]: torch.tensor(3.0)}), "{keys[2]} has shape (), but a backbone"),
    ],
)
def test_state_dicts_with_wrong_keys_or_shapes_are_refused(adapter, projection, tmp_path, change, says):
    state, keys = dict(projection.state_dict()), KEYS[adapter.name]
    change(state, keys)
    torch.save(native(adapter, state), tmp_path / "projection.pt")
    with pytest.raises(RTDError, match=re.escape(says.format(name=adapter.name, keys=keys))) as error:
        load_projection(adapter, tmp_path / "projection.pt", D, W)
    assert str(error.value).startswith(f"{tmp_path / 'projection.pt'}: ")


SOMEONE_ELSES = {
    "empty": {},
    "a CLIP": WHOLE_CLIP,
    "a training state": {"state_dict": {}},
    "no state dict": {"Phi": torch.zeros(3), "state_dict_img2text": torch.zeros(3)},
    "nothing": {"Phi": None, "state_dict_img2text": None},
}


@pytest.mark.parametrize("kind", SOMEONE_ELSES)
def test_files_that_are_not_checkpoints_are_refused(adapter, tmp_path, kind):
    torch.save(SOMEONE_ELSES[kind], tmp_path / "other.pt")
    with pytest.raises(RTDError, match=rf"other\.pt: not a checkpoint of {type(adapter).__name__}: neither"):
        load_projection(adapter, tmp_path / "other.pt", D, W)


@pytest.mark.parametrize(("of", "says"), [("pic2word", "LinCIR"), ("pic2word", "SEARLE"), ("lincir", "Pic2Word")])
def test_a_checkpoint_of_another_method_is_refused(randomise, tmp_path, of, says):
    module = randomise(im2text.Im2Text(D, W) if of == "pic2word" else phi.Phi(D, W))
    path = tmp_path / "other.pt"
    for checkpoint in (native(ADAPTERS[of], module.state_dict()), module.state_dict()):
        torch.save(checkpoint, path)
        with pytest.raises(
            RTDError, match=rf"other\.pt: not a checkpoint of {says}: neither '\w+' nor '[\w.]+' is in it$"
        ):
            load_projection(ADAPTERS[says.lower()], path, D, W)


def test_a_pickle_with_code_is_refused_and_not_run(adapter, projection, tmp_path):
    torch.save({**native(adapter, projection.state_dict()), "epoch": Payload(tmp_path / "ran")}, tmp_path / "p.pt")
    with pytest.raises(RTDError, match=r"p\.pt: holds pickled objects other than tensors"):
        load_projection(adapter, tmp_path / "p.pt", D, W)
    assert not (tmp_path / "ran").exists()


def test_a_truncated_file_is_refused(adapter, projection, tmp_path):
    path = tmp_path / "projection.pt"
    torch.save(native(adapter, projection.state_dict()), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RTDError, match=r"projection\.pt: .*broken or truncated"):
        load_projection(adapter, path, D, W)


def test_phi_computes_three_layers(randomise):
    module, features = randomise(phi.Phi(D, W)), torch.randn(5, D)
    state, x = module.state_dict(), features
    assert {key: tuple(weight.shape) for key, weight in state.items()} == PHI_KEYS
    for layer in (0, 3, 6):
        x = x @ state[f"layers.{layer}.weight"].T + state[f"layers.{layer}.bias"]
        x = torch.nn.functional.gelu(x) if layer < 6 else x
    torch.testing.assert_close(module(features), x)
    assert not torch.equal(module.train()(features), module(features)), "dropout is for training"

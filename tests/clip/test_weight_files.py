"""The file of the weights is found in a folder, and one of several text encoders in it is chosen."""

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from rtd_plugin.clip.backbones import Backbone
from rtd_plugin.clip.tuned_encoder import read_weights
from rtd_plugin.clip.weight_files import NAMES, find_weights
from rtd_plugin.errors import RTDError

SIZES = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return CLIPTextModelWithProjection(CLIPTextConfig(**SIZES, projection_dim=16, hidden_act="gelu"))


@pytest.mark.parametrize("variant", [None, "fp16", "bf16"])
@pytest.mark.parametrize("sharded", [True, False])
def test_folders_of_save_pretrained_are_read(model, tmp_path, variant, sharded):
    model.save_pretrained(tmp_path, variant=variant, max_shard_size="100KB" if sharded else "50GB")
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == sharded
    weights, tower = read_weights(tmp_path), Backbone(checkpoint=tmp_path).load_text_tower()
    assert (weights.activation, weights.heads) == (tower.activation, tower.heads) == ("gelu", 4)
    assert torch.equal(tower.ln_final.weight, model.text_model.final_layer_norm.weight)
    assert torch.equal(weights.read()["text_projection.weight"], model.text_projection.weight)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_found_by_its_name(tmp_path, name):
    (tmp_path / name).touch()
    (tmp_path / "optimizer.bin").touch()
    assert find_weights(tmp_path) == tmp_path / name
    assert find_weights(tmp_path / name) == tmp_path / name


def test_lora_alone_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").touch()
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(RTDError, match="only LoRA weights, without their model: call merge_and_unload"):
        read_weights(tmp_path)


def test_one_of_several_text_encoders_is_chosen(model, tmp_path, caplog):
    averages = {name: weight + 1 for name, weight in model.state_dict().items()}
    model.config.save_pretrained(tmp_path)
    path = tmp_path / "last.ckpt"
    torch.save({"ema_state_dict": averages, "state_dict": model.state_dict()}, path)
    for load in (read_weights, lambda file: Backbone(checkpoint=file).load_text_tower()):
        caplog.clear()
        load(path)
        assert caplog.messages == [
            f"{path} has 2 text encoders (state_dict, ema_state_dict): reading state_dict; "
            f"for another, write {path}#ema_state_dict."
        ]
        caplog.clear()
        load(tmp_path / "last.ckpt#ema_state_dict")
        assert not caplog.messages
    expected = model.text_model.final_layer_norm.weight
    for key, shift in (("", 0), ("#state_dict", 0), ("#ema_state_dict", 1)):
        tower = Backbone(checkpoint=tmp_path / f"last.ckpt{key}").load_text_tower()
        assert torch.equal(tower.ln_final.weight, expected + shift)
    weights = read_weights(tmp_path / "last.ckpt#ema_state_dict")
    assert (weights.path, weights.key, weights.heads) == (str(path), "ema_state_dict", 4)
    assert torch.equal(weights.read()["text_projection.weight"], averages["text_projection.weight"])
    for load in (read_weights, lambda file: Backbone(checkpoint=file).load_text_tower()):
        with pytest.raises(RTDError, match=rf"^{path}: no weights under the key 'em'; its dictionaries are ema"):
            load(tmp_path / "last.ckpt#em")


def test_a_single_text_encoder_gives_no_warning(model, tmp_path, caplog):
    model.config.save_pretrained(tmp_path)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    Backbone(checkpoint=tmp_path).load_text_tower()
    assert not caplog.messages

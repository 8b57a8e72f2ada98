"""The settings read from a `config.json` are those with which transformers computes its features."""

import json

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModelWithProjection, CLIPVisionConfig

from rtd_plugin.clip.backbones import Backbone
from rtd_plugin.clip.huggingface_config import TextConfig, VisionConfig, build_text_config, read_config
from rtd_plugin.clip.tokens import tokenize
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.clip.tuned_encoder import read_weights
from rtd_plugin.errors import RTDError

TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "projection_dim": 24}
VISION = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
VISION |= {"image_size": 32, "patch_size": 16}
SETTINGS = {"hidden_act": "gelu", "num_attention_heads": 4}
TOKENS = tokenize(["a photo of a dog", "two cats", "an empty street at night"])


def whole(**texts):
    return {"model_type": "clip", "projection_dim": 24, "vision_config": VISION, **texts}


CONFIGS = {
    "all keys": whole(text_config=TEXT | SETTINGS),
    "only what differs from the defaults": whole(text_config=TEXT),
    "the heads are a default": whole(text_config=TEXT | {"hidden_act": "gelu"}),
    "the activation is a default": whole(text_config=TEXT | {"num_attention_heads": 4}),
    "text_config_dict alone": whole(text_config_dict=TEXT | SETTINGS),
    "text_config_dict wins": whole(text_config=TEXT, text_config_dict=TEXT | SETTINGS),
    "the defaults of text_config_dict win": whole(text_config=TEXT | SETTINGS, text_config_dict=TEXT),
    "text_config_dict is null": whole(text_config=TEXT | SETTINGS, text_config_dict=None),
    "the sub-configuration has a type": whole(text_config=TEXT | SETTINGS | {"model_type": "clip_text_model"}),
}


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_features_are_those_of_transformers(name, randomise, tmp_path):
    config = CLIPConfig(text_config=TEXT | SETTINGS, vision_config=VISION, projection_dim=24)
    randomise(CLIPModel(config)).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[name]))
    model = CLIPModel.from_pretrained(tmp_path)
    expected = model.text_projection(model.text_model(TOKENS).pooler_output)
    tower = Backbone(checkpoint=tmp_path).load_text_tower()
    torch.testing.assert_close(tower.encode(TOKENS), expected, rtol=1e-5, atol=1e-5)
    assert torch.pdist(expected).min() > 0.1


def test_the_settings_matter(randomise):
    """Otherwise the test above could not fail."""
    tower = randomise(TextTower(width=64, layers=2, heads=4, features=24, activation="gelu"))
    features = tower.encode(TOKENS)
    for changes in ({"activation": "quick_gelu", "heads": 4}, {"activation": "gelu", "heads": 8}):
        other = TextTower.from_state_dict(tower.state_dict(), **changes)
        assert (other.encode(TOKENS) - features).abs().max() > 0.01


@pytest.mark.parametrize("name", CONFIGS)
def test_tuned_encoders_have_the_same_settings(name, tmp_path):
    """Keys that were left out, because they equal transformers' defaults, were an error."""
    CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=24)).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[name]))
    tower, weights = Backbone(checkpoint=tmp_path).load_text_tower(), read_weights(tmp_path)
    assert (weights.activation, weights.heads) == (tower.activation, tower.heads)


@pytest.mark.parametrize("model_type", ["clip_text_model", None])
@torch.no_grad()
def test_a_text_model_alone(model_type, randomise, tmp_path):
    model = randomise(CLIPTextModelWithProjection(CLIPTextConfig(**TEXT, **SETTINGS)))
    model.save_pretrained(tmp_path)
    config = TEXT | SETTINGS | ({"model_type": model_type} if model_type else {})
    (tmp_path / "config.json").write_text(json.dumps(config))
    tower = Backbone(checkpoint=tmp_path).load_text_tower()
    torch.testing.assert_close(tower.encode(TOKENS), model(TOKENS).text_embeds, rtol=1e-5, atol=1e-5)


def test_defaults_are_those_of_transformers(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for kind, expected in ((TextConfig, CLIPTextConfig()), (VisionConfig, CLIPVisionConfig())):
        found = read_config(tmp_path / "config.json", kind)
        assert (found.activation, found.heads) == (expected.hidden_act, expected.num_attention_heads)
        assert (found.width, found.layers) == (expected.hidden_size, expected.num_hidden_layers)
        assert found.layer_norm_eps == expected.layer_norm_eps


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "siglip"}, "the configuration of a model of type 'siglip', not of a CLIP text tower"),
        ({"text_config": {"layer_norm_eps": 1e-6}}, "layer_norm_eps is 1e-06, but CLIP's text towers have 1e-05"),
        ({"text_config": {"hidden_act": "gelu_new"}}, "hidden_act: input should be 'gelu' or 'quick_gelu', found"),
        ({"num_attention_heads": "8"}, "num_attention_heads: input should be a valid integer, found '8'"),
        ({"num_attention_heads": 0}, "num_attention_heads: input should be greater than 0, found 0"),
        ({"text_config": "clip"}, "text_config: expected a mapping, found 'clip'"),
        ([], "not a JSON object"),
    ],
)
def test_other_configurations_are_refused(config, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RTDError) as error:
        read_config(tmp_path / "config.json", TextConfig)
    assert str(error.value).startswith(f"{tmp_path / 'config.json'}: {message}")


def test_a_configuration_of_other_weights_is_refused(randomise, tmp_path):
    CLIPTextModelWithProjection(CLIPTextConfig(**TEXT, **SETTINGS)).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RTDError, match=r"2 layers of width 64; .*config\.json has 12 of 512$"):
        Backbone(checkpoint=tmp_path).load_text_tower()


def test_a_written_configuration_is_read_by_transformers_and_back(tmp_path):
    tower = TextTower(width=64, layers=2, heads=4, mlp_width=96, features=24, activation="gelu")
    (tmp_path / "config.json").write_text(json.dumps(build_text_config(tower)))
    found = read_config(tmp_path / "config.json", TextConfig)
    assert (found.activation, found.heads, found.width, found.layers) == ("gelu", 4, 64, 2)
    config = CLIPTextConfig.from_pretrained(tmp_path)
    assert (config.intermediate_size, config.projection_dim, config.max_position_embeddings) == (96, 24, 77)

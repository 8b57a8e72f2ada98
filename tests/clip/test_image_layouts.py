"""Image towers in Hugging Face's layout, against transformers' own forward."""

import json

import open_clip
import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from rtd_plugin.clip.backbones import Backbone
from rtd_plugin.errors import RTDError

VISION = {"image_size": 32, "layers": 2, "width": 48, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}


@pytest.fixture(scope="module")
def model(randomise):
    text = {
        "vocab_size": 49408,
        "hidden_size": 32,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    vision = {
        "hidden_size": 48,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "image_size": 32,
        "patch_size": 8,
    }
    activation = {"hidden_act": "quick_gelu", "projection_dim": 24}
    config = CLIPConfig(text_config=text | activation, vision_config=vision | activation, projection_dim=24)
    return randomise(CLIPModel(config))


@pytest.fixture
def backbone(model, tmp_path):
    model.save_pretrained(tmp_path / "clip")
    config = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}
    (tmp_path / "clip.json").write_text(json.dumps(config))
    return Backbone(model=str(tmp_path / "clip.json"), checkpoint=tmp_path / "clip")


@torch.no_grad()
def test_features_are_those_of_transformers(backbone, model):
    """Also the activation, which only the folder's configuration contains."""
    images = torch.randn(5, 3, 32, 32)
    found = backbone.load_image_encoder()(images)
    expected = model.visual_projection(model.vision_model(pixel_values=images).pooler_output)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert torch.pdist(found).min() > 0.1


def change_config(tmp_path, **changes):
    """Change a folder's `config.json`; transformers' model of it then has these values."""
    file = tmp_path / "clip" / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return CLIPModel.from_pretrained(tmp_path / "clip")


SIZES = {"hidden_size": 48, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 3}
SIZES |= {"image_size": 32, "patch_size": 8}


@pytest.mark.parametrize(
    "changes",
    [
        {"vision_config": SIZES},  # the activation is a default
        {"vision_config": SIZES | {"hidden_act": "gelu"}},
        {"vision_config": None, "vision_config_dict": SIZES | {"hidden_act": "gelu"}},
        {"vision_config": SIZES | {"hidden_act": "gelu"}, "vision_config_dict": SIZES},
    ],
    ids=["default", "gelu", "vision_config_dict alone", "vision_config_dict wins"],
)
@pytest.mark.parametrize("text_activation", ["gelu", "quick_gelu"])
@torch.no_grad()
def test_the_image_tower_has_an_activation_of_its_own(backbone, tmp_path, changes, text_activation):
    """It was that of the text tower."""
    text = json.loads((tmp_path / "clip" / "config.json").read_text())["text_config"]
    model = change_config(tmp_path, text_config=text | {"hidden_act": text_activation}, **changes)
    images = torch.randn(5, 3, 32, 32)
    expected = model.visual_projection(model.vision_model(pixel_values=images).pooler_output)
    torch.testing.assert_close(backbone.load_image_encoder()(images), expected, rtol=1e-4, atol=1e-4)


def test_an_image_tower_with_other_heads_is_refused(backbone, tmp_path):
    change_config(tmp_path, vision_config=SIZES | {"num_attention_heads": 6})
    with pytest.raises(RTDError, match=r"6 attention heads in the image tower; clip has 3: set backbone\.model"):
        backbone.load_image_encoder()


def test_every_weight_is_used(backbone, model):
    """As many values as transformers has and open_clip expects."""
    visual = backbone.load_image_encoder().visual
    count = sum(weight.numel() for name, weight in model.named_parameters() if name.startswith(("vision", "visual")))
    assert sum(weight.numel() for weight in visual.parameters()) == count
    assert type(visual) is type(open_clip.CLIP(24, VISION, TEXT).visual)


@pytest.mark.parametrize(
    "lost", ["vision_model.encoder.layers.1.self_attn.k_proj.weight", "vision_model.post_layernorm.bias"]
)
def test_a_missing_weight_is_reported(backbone, model, tmp_path, lost):
    state = {name: weight for name, weight in model.state_dict().items() if name != lost}
    model.save_pretrained(tmp_path / "clip", state_dict=state)
    with pytest.raises(RTDError, match="not the image tower of clip"):
        backbone.load_image_encoder()

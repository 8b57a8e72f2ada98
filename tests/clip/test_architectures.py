"""The architectures of open_clip: the text towers of the shipped recipes at full size, and those that are refused."""

import json
import re
from pathlib import Path

import open_clip
import pytest
import rtd_recipes
import torch

from rtd_plugin.clip.backbones import Backbone
from rtd_plugin.clip.tokens import tokenize
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.errors import RTDError


def shipped_backbones():
    backbones = json.loads((Path(rtd_recipes.__file__).parent / "backbones.json").read_text())
    return sorted((backbone["model"], backbone["pretrained"]) for backbone in backbones.values())


BACKBONES = shipped_backbones()
QUICK_GELU = {"openai": True, "metaclip_fullcc": True, "laion2b_s32b_b79k": False, "laion2b_s39b_b160k": False}
VISION = {"layers": 1, "width": 64, "patch_size": 16, "image_size": 16}
HEAD_WIDTH = 8

# Relatives of CLIP with other text towers; MobileCLIP's two B models have CLIP's.
RELATIVES = re.compile(r"SigLIP|CLIPA|worldwide|^coca_|roberta|^mt5|^nllb|^MobileCLIP2?-[SL]")
REFUSED = [model for model in open_clip.list_models() if RELATIVES.search(model)]


def text_shapes(state):
    return {
        name: tuple(weight.shape) for name, weight in state.items() if not name.startswith(("visual.", "logit_scale"))
    }


def test_shipped_recipes_have_the_backbones_of_the_literature():
    assert len(BACKBONES) == 6
    assert {tag for _, tag in BACKBONES} == QUICK_GELU.keys()


@pytest.mark.parametrize(("model", "tag"), BACKBONES)
def test_names_and_shapes_are_open_clips(model, tag):
    """All of open_clip's text tower and nothing else; on the meta device, where ViT-bigG/14 takes no memory."""
    with torch.device("meta"):
        clip = open_clip.CLIP(**open_clip.get_model_config(model))
    tower = TextTower.from_state_dict(clip.state_dict())
    assert text_shapes(tower.state_dict()) == text_shapes(clip.state_dict())
    assert tower.heads == clip.transformer.resblocks[0].attn.num_heads
    assert tower.token_embedding.weight.is_meta


@pytest.mark.parametrize(("model", "tag"), BACKBONES)
@pytest.mark.slow
def test_features_at_full_depth_are_open_clips(model, tag, randomise, tmp_path, monkeypatch):
    """As deep and with as many heads, each of them narrow."""
    config = open_clip.get_model_config(model)
    text = {**config["text_cfg"], "width": HEAD_WIDTH * config["text_cfg"]["heads"]}
    config = {**config, "embed_dim": 64, "vision_cfg": VISION, "text_cfg": text}
    clip = randomise(open_clip.CLIP(**{**config, "quick_gelu": QUICK_GELU[tag]}))
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    monkeypatch.setattr("rtd_plugin.clip.backbones.read_architecture", {model: config}.get)
    tower = Backbone(model, tag, tmp_path / "clip.pt").load_text_tower()
    assert len(tower.transformer.resblocks) == text["layers"]
    tokens = tokenize(["a photo of a dog", "two cats", "word " * 80])
    padded = torch.nn.functional.pad(tokens, (0, 77 - tokens.shape[1]))
    with torch.no_grad():
        expected = clip.encode_text(padded)
        torch.testing.assert_close(tower.encode(tokens), expected, rtol=1e-5, atol=1e-5)
    assert torch.pdist(expected).min() > 0.1


def test_relatives_are_among_open_clips_architectures():
    for family in ("SigLIP", "SigLIP2", "CLIPA", "coca", "xlm-roberta", "mt5", "nllb", "MobileCLIP-S"):
        assert any(family in model for model in REFUSED), family
    assert not {model for model, _ in BACKBONES} & set(REFUSED)


@pytest.mark.parametrize("model", REFUSED)
def test_relatives_are_refused_before_anything_is_downloaded(model, monkeypatch):
    monkeypatch.setattr("open_clip.pretrained.download_pretrained", lambda _: pytest.fail("downloads"))
    monkeypatch.setattr("open_clip.pretrained.get_pretrained_cfg", lambda *_: {"url": "somewhere"})
    with pytest.raises(RTDError) as error:
        Backbone(model, "tag").load_text_tower()
    message = re.fullmatch(
        rf"{model} \(tag\): needs CLIP's causal text tower and CLIP's tokens, but has other settings: (.+)",
        str(error.value),
    )
    assert set(message[1].split(", ")) & {"hf_model_name", "hf_tokenizer_name", "embed_cls", "no_causal_mask"}


@pytest.mark.parametrize(
    ("model", "model_class"),
    [("ViT-B-16-SigLIP", open_clip.CustomTextCLIP), ("coca_ViT-B-32", open_clip.CoCa)],
)
def test_weights_of_relatives_are_refused_without_their_configuration(model, model_class):
    config = open_clip.get_model_config(model)
    del config["custom_text"]
    with torch.device("meta"):
        state = model_class(**{**config, "vision_cfg": {**VISION, "attentional_pool": True}}).state_dict()
    with pytest.raises(RTDError, match=r"the weights of a model with another text tower .*: pseudo tokens need"):
        TextTower.from_state_dict(state)


@pytest.mark.parametrize(
    "model", ["MobileCLIP-B", "EVA02-L-14", "PE-Core-L-14-336", "ViTamin-XL-256", "convnext_xxlarge"]
)
def test_clips_with_other_image_towers_are_accepted(model, tmp_path, monkeypatch):
    """Also a text tower in a separate module, a shorter context, or heads that are not 64 channels wide."""
    config = open_clip.get_model_config(model)
    with torch.device("meta"):
        clip = open_clip.CustomTextCLIP(config["embed_dim"], VISION, config["text_cfg"])
    monkeypatch.setattr("rtd_plugin.clip.backbones.read_checkpoint", lambda _: clip.state_dict())
    (tmp_path / "clip.pt").touch()
    tower = Backbone(model, checkpoint=tmp_path / "clip.pt").load_text_tower()
    assert text_shapes(tower.state_dict()) == text_shapes(clip.text.state_dict())
    assert tower.heads == clip.text.transformer.resblocks[0].attn.num_heads

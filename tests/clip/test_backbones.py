"""Every form in which CLIPs are published gives the features of the library it comes from."""

import json

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file

from rtd_plugin.clip import backbones
from rtd_plugin.clip.backbones import Backbone, _build_image_tower
from rtd_plugin.clip.tokens import tokenize
from rtd_plugin.errors import RTDError

CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
TOKENS = tokenize(["a photo of a dog", "two cats", "an empty street at night"], 20)


def pad_tokens(tokens=TOKENS):
    return torch.nn.functional.pad(tokens, (0, 20 - tokens.shape[1]))


@pytest.fixture
def architecture(tmp_path):
    """Writes a model configuration of open_clip and returns its path."""

    def write(**changes):
        path = tmp_path / "ViT-Tiny.json"
        path.write_text(json.dumps({**CONFIG, **changes}))
        return str(path)

    return write


@pytest.fixture
def clip_model(randomise):
    return randomise(open_clip.CLIP(**CONFIG))


def assert_text_features(backbone, expected, **tolerance):
    tower = backbone.load_text_tower()
    assert {weight.dtype for weight in tower.parameters()} == {torch.float32}
    with torch.no_grad():
        torch.testing.assert_close(tower.encode(TOKENS), expected, **(tolerance or {"rtol": 1e-5, "atol": 1e-5}))
    assert torch.pdist(expected).min() > 0.1
    return tower


@pytest.mark.parametrize("kind", ["state dict", "checkpoint", "safetensors", "custom text"])
@pytest.mark.parametrize("quick_gelu", [False, True])
def test_open_clip_checkpoints_give_open_clips_features(architecture, randomise, tmp_path, kind, quick_gelu):
    model_class = open_clip.CustomTextCLIP if kind == "custom text" else open_clip.CLIP
    model = randomise(model_class(**CONFIG, quick_gelu=quick_gelu))
    state = model.state_dict()
    path = tmp_path / ("model.safetensors" if kind == "safetensors" else "model.pt")
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "checkpoint":
        torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    else:
        torch.save(state, path)
    backbone = Backbone(architecture(quick_gelu=quick_gelu), checkpoint=path)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tower = assert_text_features(backbone, model.encode_text(pad_tokens()))
        torch.testing.assert_close(backbone.load_image_encoder()(images), model.encode_image(images))
    assert tower.activation == ("quick_gelu" if quick_gelu else "gelu")
    assert backbone.name == "ViT-Tiny"


def test_an_open_clip_folder_gives_open_clips_features(clip_model, tmp_path):
    preprocess = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7], "interpolation": "bilinear", "resize_mode": "squash"}
    whole = {"model_cfg": CONFIG, "preprocess_cfg": {**preprocess, "size": 999}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(whole))
    save_file(clip_model.state_dict(), tmp_path / "open_clip_model.safetensors")
    expected_model, _, expected_transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    image = picture(50, 40)
    for checkpoint in (tmp_path, tmp_path / "open_clip_model.safetensors"):
        backbone = Backbone(checkpoint=checkpoint)
        with torch.no_grad():
            assert_text_features(backbone, expected_model.encode_text(pad_tokens()))
            encoder = backbone.load_image_encoder()
            assert torch.equal(encoder.preprocess(image), expected_transform(image))
            batch = encoder.preprocess(image)[None]
            torch.testing.assert_close(encoder(batch), expected_model.eval().encode_image(batch))
    assert Backbone(model=str(tmp_path / "open_clip_config.json"), checkpoint=tmp_path).load_text_tower().heads == 2


def picture(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("text", [[], "plain", 3])
def test_a_text_tower_that_is_no_object_is_an_error(architecture, clip_model, tmp_path, text):
    torch.save(clip_model.state_dict(), tmp_path / "clip.pt")
    with pytest.raises(RTDError, match="text_cfg has to be an object"):
        Backbone(architecture(text_cfg=text), checkpoint=tmp_path / "clip.pt").load_text_tower()


def test_default_preprocessing_is_open_clips(architecture, clip_model, tmp_path):
    torch.save(clip_model.state_dict(), tmp_path / "model.pt")
    encoder = Backbone(architecture(), checkpoint=tmp_path / "model.pt").load_image_encoder()
    image = picture(50, 40)
    expected = image_transform_v2(PreprocessCfg(size=32), is_train=False)(image)
    assert torch.equal(encoder.preprocess(image), expected)
    assert not encoder.visual.training


def test_image_towers_of_timm_are_built_without_a_download(architecture, randomise, tmp_path, monkeypatch):
    """A configuration that asks timm for pre-trained weights must not download them."""
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *_, **__: pytest.fail("downloads"))
    vision = {"timm_model_name": "resnet10t", "timm_model_pretrained": True, "timm_pool": "avg", "image_size": 32}
    model = randomise(open_clip.CLIP(24, {**vision, "timm_model_pretrained": False}, CONFIG["text_cfg"]))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    backbone = Backbone(architecture(vision_cfg=vision), checkpoint=tmp_path / "model.pt")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(backbone.load_image_encoder()(images), model.encode_image(images))


@pytest.fixture
def openai_model(randomise):
    from clip.model import CLIP

    return randomise(CLIP(24, 32, 1, 64, 16, 20, 49408, 64, 1, 2))


OPENAI_TEXT = {**CONFIG["text_cfg"], "width": 64, "heads": 1}
RESOLUTION = {
    "input_resolution": torch.tensor(32),
    "context_length": torch.tensor(20),
    "vocab_size": torch.tensor(49408),
}


@pytest.mark.parametrize("half", [False, True])
def test_an_openai_state_dict_gives_openais_features(architecture, openai_model, tmp_path, half):
    from clip.model import convert_weights

    with torch.no_grad():
        expected = openai_model.encode_text(pad_tokens())
        images = torch.randn(2, 3, 32, 32)
        features = openai_model.encode_image(images)
    if half:
        convert_weights(openai_model)
    torch.save({**openai_model.state_dict(), **RESOLUTION}, tmp_path / "clip.pt")
    tolerance = {"rtol": 0, "atol": 0.02} if half else {"rtol": 1e-5, "atol": 1e-5}
    tower = assert_text_features(Backbone(checkpoint=tmp_path / "clip.pt"), expected, **tolerance)
    assert tower.activation == "quick_gelu"
    backbone = Backbone(architecture(text_cfg=OPENAI_TEXT), checkpoint=tmp_path / "clip.pt")
    assert_text_features(backbone, expected, **tolerance)
    with torch.no_grad():
        torch.testing.assert_close(backbone.load_image_encoder()(images), features, rtol=1e-4, atol=tolerance["atol"])


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning", "ignore::torch.jit.TracerWarning")
def test_an_openai_archive_gives_openais_features(architecture, openai_model, tmp_path):
    with torch.no_grad():
        expected = openai_model.encode_text(pad_tokens())
        images = torch.randn(1, 3, 32, 32)
        traced = torch.jit.trace(openai_model, (images, pad_tokens()), check_trace=False)
        features = openai_model.encode_image(images)
    traced.save(str(tmp_path / "clip.pt"))
    for model in (None, architecture(text_cfg=OPENAI_TEXT)):
        tower = assert_text_features(Backbone(model, checkpoint=tmp_path / "clip.pt"), expected)
        assert tower.activation == "quick_gelu"
    with torch.no_grad():
        encoder = Backbone(architecture(text_cfg=OPENAI_TEXT), checkpoint=tmp_path / "clip.pt").load_image_encoder()
        torch.testing.assert_close(encoder(images), features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("form", ["text", "text in shards", "whole"])
def test_a_huggingface_folder_gives_transformers_features(randomise, tmp_path, form, activation):
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModelWithProjection

    text = {
        "vocab_size": 49408,
        "hidden_size": 32,
        "intermediate_size": 80,
        "projection_dim": 24,
        "num_hidden_layers": 2,
    }
    text |= {"num_attention_heads": 2, "max_position_embeddings": 20, "hidden_act": activation}
    if form == "whole":
        vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        vision |= {"image_size": 32, "patch_size": 16}
        model = randomise(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)))
        features = model.text_projection(model.text_model(pad_tokens()).pooler_output)
    else:
        model = randomise(CLIPTextModelWithProjection(CLIPTextConfig(**text)))
        features = model(pad_tokens()).text_embeds
    model.save_pretrained(tmp_path, max_shard_size="20KB" if form == "text in shards" else "50GB")
    assert ((tmp_path / "model.safetensors.index.json").exists()) == (form == "text in shards")
    sources = [tmp_path] if form == "text in shards" else [tmp_path, tmp_path / "model.safetensors"]
    for source in sources:
        tower = assert_text_features(Backbone(checkpoint=source), features.detach())
        assert (tower.activation, tower.heads) == (activation, 2)
    with pytest.raises(RTDError, match="image features need an open_clip architecture"):
        Backbone(checkpoint=tmp_path).load_image_encoder()


def write_config(folder, **text):
    (folder / "config.json").write_text(json.dumps({"text_config": text}))


def test_a_config_beside_weights_in_another_layout_is_ignored(architecture, clip_model, tmp_path):
    torch.save(clip_model.state_dict(), tmp_path / "model.pt")
    write_config(tmp_path, num_attention_heads=4)
    assert Backbone(architecture(), checkpoint=tmp_path / "model.pt").load_text_tower().heads == 2


def test_cached_weights_of_a_tag_have_its_activation_and_preprocessing(clip_model, tmp_path, monkeypatch):
    """By name and tag, with the tag's activation and preprocessing; the download itself is open_clip's."""
    torch.save(clip_model.state_dict(), tmp_path / "cached.pt")
    monkeypatch.setattr("open_clip.pretrained.download_pretrained", lambda tag: str(tmp_path / "cached.pt"))
    monkeypatch.setattr(backbones, "read_architecture", lambda _: json.loads(json.dumps(CONFIG)))
    backbone = Backbone("ViT-B/32", "openai")
    with torch.no_grad():
        expected = open_clip.CLIP(**CONFIG, quick_gelu=True)
        expected.load_state_dict(clip_model.state_dict())
        assert_text_features(backbone, expected.eval().encode_text(pad_tokens()))
    assert Backbone("ViT-B-32", "laion2b_s34b_b79k").load_text_tower().activation == "gelu"
    assert backbone.name == "ViT-B/32 (openai)"
    image = picture(50, 40)
    squash = PreprocessCfg(size=32, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", resize_mode="squash")
    monkeypatch.setattr(
        "open_clip.pretrained.get_pretrained_cfg",
        lambda *_: {"mean": (0.5,) * 3, "std": (0.5,) * 3, "resize_mode": "squash", "size": 7, "url": "x"},
    )
    found = backbone.load_image_encoder().preprocess(image)
    assert torch.equal(found, image_transform_v2(squash, is_train=False)(image))


def test_a_failed_download_says_what_to_do(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(RTDError) as error:
        Backbone("ViT-B-32", "openai").load_text_tower()
    assert str(error.value).startswith("ViT-B-32 (openai) cannot be downloaded (")
    assert "set backbone.checkpoint to the file or folder" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (Backbone("ViT-B32", "openai"), "no architecture 'ViT-B32'; the closest are .*ViT-B-32"),
        (Backbone("hf-hub:some/where", "openai"), "no architecture 'hf-hub:some/where'"),
        (Backbone("ViT-B-32", "openia"), "no weights 'openia' for ViT-B-32: it has openai, "),
        (Backbone("ViT-B-32"), "no weights: set backbone.model and backbone.pretrained, or backbone.checkpoint"),
        (Backbone(), "the backbone has no weights"),
    ],
)
def test_names_unknown_to_open_clip_are_refused(backbone, message):
    with pytest.raises(RTDError, match=message):
        backbone.load_text_tower()


@pytest.mark.parametrize(
    "text",
    [
        {"no_causal_mask": True},
        {"embed_cls": True},
        {"hf_model_name": "roberta-base"},
        {"hf_tokenizer_name": "google/mt5-base"},
        {"pool_type": "last"},
        {"norm_kwargs": {"eps": 1e-6}},
    ],
    ids=lambda text: next(iter(text)),
)
def test_other_text_towers_are_refused(architecture, clip_model, tmp_path, text):
    torch.save(clip_model.state_dict(), tmp_path / "model.pt")
    backbone = Backbone(architecture(text_cfg={**CONFIG["text_cfg"], **text}), checkpoint=tmp_path / "model.pt")
    with pytest.raises(RTDError, match=rf"CLIP's tokens, but has other settings: {next(iter(text))}"):
        backbone.load_text_tower()


def test_checkpoints_of_another_model_are_refused(architecture, clip_model, tmp_path):
    state, path = clip_model.state_dict(), tmp_path / "model.pt"
    torch.save(state, path)
    with pytest.raises(RTDError, match=r"model\.pt: the weights do not determine activation and heads"):
        Backbone(checkpoint=path).load_text_tower()
    vision = {**CONFIG["vision_cfg"], "width": 128}
    with pytest.raises(RTDError, match=r"model\.pt: not the image tower of ViT-Tiny: size mismatch for"):
        Backbone(architecture(vision_cfg=vision), checkpoint=path).load_image_encoder()
    with pytest.raises(RTDError, match="open_clip cannot build the configured model"):
        Backbone(architecture(vision_cfg={"image_siz": 3}), checkpoint=path).load_image_encoder()
    torch.save({key: value for key, value in state.items() if not key.startswith("visual.")}, path)
    with pytest.raises(RTDError, match=r"model\.pt: image features need"):
        Backbone(architecture(), checkpoint=path).load_image_encoder()
    torch.save({**state, "token_embedding.weight": torch.zeros(49000, 32)}, path)
    with pytest.raises(RTDError, match="49000 token embeddings, but CLIP's tokenizer has 49408"):
        Backbone(architecture(), checkpoint=path).load_text_tower()
    del state["ln_final.bias"]
    torch.save(state, path)
    with pytest.raises(RTDError, match=r"model\.pt: missing key ln_final\.bias"):
        Backbone(architecture(), checkpoint=path).load_text_tower()


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        ({"layers": 12}, "12 layers of width 32 and features of size 24"),
        ({"width": 64}, "2 layers of width 64 and features of size 24"),
        ({"layers": 1, "width": 48, "heads": 3}, "1 layer of width 48 and features of size 24"),
    ],
    ids=["layers", "width", "all"],
)
def test_a_checkpoint_of_another_size_is_refused(architecture, clip_model, tmp_path, changes, sizes):
    """ViT-L/14 loaded under the name ViT-B-32, with the wrong number of heads."""
    torch.save(clip_model.state_dict(), tmp_path / "model.pt")
    model = architecture(text_cfg={**CONFIG["text_cfg"], **changes})
    with pytest.raises(RTDError) as error:
        Backbone(model, checkpoint=tmp_path / "model.pt").load_text_tower()
    assert str(error.value) == (
        f"{tmp_path / 'model.pt'}: 2 layers of width 32 and features of size 24; ViT-Tiny has {sizes}: "
        "set backbone.model to the architecture of the checkpoint"
    )


def test_a_checkpoint_with_features_of_another_size_is_refused(architecture, clip_model, tmp_path):
    torch.save(clip_model.state_dict(), tmp_path / "model.pt")
    with pytest.raises(RTDError, match="features of size 24; ViT-Tiny has 2 layers of width 32 and features of size 7"):
        Backbone(architecture(embed_dim=7), checkpoint=tmp_path / "model.pt").load_text_tower()


def test_a_checkpoint_with_other_heads_is_refused(architecture, clip_model, tmp_path):
    from rtd_plugin.clip.layouts import read_state_dict, write_state_dict

    state = write_state_dict(read_state_dict(clip_model.state_dict()), "huggingface")
    save_file(state, tmp_path / "model.safetensors")
    write_config(tmp_path, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    with pytest.raises(RTDError, match=r"4 attention heads; ViT-Tiny has 2: set backbone\.model"):
        Backbone(architecture(), checkpoint=tmp_path).load_text_tower()


def test_weights_that_are_not_finite_are_refused(architecture, clip_model, tmp_path):
    state, path = clip_model.state_dict(), tmp_path / "model.pt"
    text, image = "transformer.resblocks.0.ln_1.bias", "visual.transformer.resblocks.0.ln_1.bias"
    for key, load in ((text, Backbone.load_text_tower), (image, Backbone.load_image_encoder)):
        torch.save({**state, key: torch.full_like(state[key], float("nan"))}, path)
        with pytest.raises(RTDError, match=r"model\.pt: transformer.resblocks.0.ln_1.bias has infinite or NaN values"):
            load(Backbone(architecture(), checkpoint=path))


def test_missing_and_broken_files_are_reported(architecture, tmp_path):
    with pytest.raises(RTDError, match="none: no such file or folder"):
        Backbone(checkpoint=tmp_path / "none").load_text_tower()
    (tmp_path / "empty").mkdir()
    with pytest.raises(RTDError, match="no weights in this folder: expected one of text_encoder"):
        Backbone(architecture(), checkpoint=tmp_path / "empty").load_text_tower()
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(RTDError, match=r"broken\.json: not a readable JSON file"):
        Backbone(str(tmp_path / "broken.json"), checkpoint=tmp_path).load_text_tower()
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(RTDError, match=r"list\.json: not a JSON object"):
        Backbone(str(tmp_path / "list.json"), checkpoint=tmp_path).load_text_tower()
    (tmp_path / "other.json").write_text('{"embed_dim": 3}')
    with pytest.raises(RTDError, match=r"other\.json: not an open_clip model configuration: it has no text_cfg"):
        Backbone(str(tmp_path / "other.json"), checkpoint=tmp_path).load_text_tower()


@pytest.mark.parametrize("vision", [False, {}, {"image_size": "text"}, {"width": 0}, {"layers": None}])
def test_invalid_sizes_are_refused(vision):
    config = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": {"context_length": 7, "width": 12, "heads": 3}}
    if vision:
        config["vision_cfg"] = {"layers": 1, "width": 64, "patch_size": 16, "image_size": 16, **vision}
    with pytest.raises(RTDError, match="open_clip cannot build the configured model"):
        _build_image_tower(config if vision != {} else {"embed_dim": 8}, quick_gelu=False)

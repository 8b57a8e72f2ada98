"""The shipped CLIP and projection fit open_clip and have sensible weights; small parts of the programs."""

import json
import random
from pathlib import Path

import open_clip
import pytest
import rtd_recipes.miniature
import torch
from rtd_recipes.miniature.make_clip import image_batch
from rtd_recipes.miniature.make_lincir import mask_keywords
from safetensors import safe_open
from safetensors.torch import load_file

from rtd_plugin.clip.tower import TextTower
from rtd_plugin.contract import plugins
from rtd_plugin.contract.adapter import load_projection
from rtd_plugin.miniature.benchmark import MiniatureBenchmark
from rtd_plugin.miniature.language import noisy_caption
from rtd_plugin.miniature.rendering import render
from rtd_plugin.miniature.splits import draw_training_scenes
from rtd_plugin.miniature.world import random_scene

FOLDER = Path(rtd_recipes.miniature.__file__).parent


@pytest.fixture(scope="module")
def clip():
    """The shipped model and its preprocessing, made by open_clip alone."""
    open_clip.add_model_config(FOLDER / "rtd-miniature.json")
    model, _, preprocess = open_clip.create_model_and_transforms("rtd-miniature")
    model.load_state_dict(load_file(FOLDER / "clip.safetensors"))
    return model.eval(), preprocess


@pytest.mark.parametrize("name", ["clip", "lincir", "pic2word", "searle"])
def test_files_are_half_precision_with_a_format_version(name):
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        assert file.metadata()["format_version"] == "1"
        dtypes = {file.get_tensor(key).dtype for key in file.keys()}  # noqa: SIM118
    assert dtypes <= {torch.float16, torch.int64}


def test_clip_has_about_a_million_parameters_without_token_embeddings(clip):
    model, _ = clip
    parameters = sum(p.numel() for p in model.parameters()) - model.token_embedding.weight.numel()
    assert 0.5e6 < parameters < 1.5e6


def test_embeddings_of_unused_words_are_zero(clip):
    model, _ = clip
    weight = model.token_embedding.weight
    tokenizer = open_clip.get_tokenizer("rtd-miniature")
    read = set(tokenizer("a small striped red circle on the left").flatten().tolist())
    assert weight[sorted(read)].abs().sum(dim=1).min() > 0
    unread = tokenizer("erase vanished backdrop resembling").flatten().tolist()[1:5]
    assert weight[unread].abs().max() == 0
    assert (weight.abs().sum(dim=1) > 0).sum() < 300


def test_clip_finds_pictures_by_their_captions(clip):
    """Damaged or wrong weights would be near chance, 1 in 100."""
    model, preprocess = clip
    benchmark = MiniatureBenchmark(split="development")
    queries = benchmark.queries()[:200:2]
    tokens = open_clip.get_tokenizer("rtd-miniature")([query.target_caption for query in queries])
    with torch.no_grad():
        images = model.encode_image(
            torch.stack([preprocess(benchmark.image(q.targets[0])) for q in queries]), normalize=True
        )
        texts = model.encode_text(tokens, normalize=True)
    hits = (texts @ images.T).argmax(dim=1) == torch.arange(len(queries))
    assert hits.float().mean() > 0.8


def test_image_and_text_features_have_equal_norms(clip):
    model, _ = clip
    rng = random.Random(0)
    scenes = draw_training_scenes(rng)
    batch = [next(scenes) for _ in range(100)]
    tokens = open_clip.get_tokenizer("rtd-miniature")([noisy_caption(scene, rng) for scene in batch])
    with torch.no_grad():
        lengths = [f.norm(dim=1).mean() for f in (model.encode_image(image_batch(batch)), model.encode_text(tokens))]
    assert lengths[0] / lengths[1] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("name", ["lincir", "pic2word", "searle"])
def test_projection_fits_the_tower(name):
    tower = TextTower.from_state_dict(load_file(FOLDER / "clip.safetensors"), activation="gelu")
    projection = load_projection(
        plugins.find_adapter(name), FOLDER / f"{name}.safetensors", tower.features, tower.width
    )
    assert projection(torch.zeros(2, tower.features)).shape == (2, tower.width)
    configuration = json.loads((FOLDER / "rtd-miniature.json").read_text())
    assert tower.features == configuration["embed_dim"]
    assert tower.context_length == configuration["text_cfg"]["context_length"] == 77


def test_pretraining_batches_equal_the_transforms(clip):
    _, preprocess = clip
    rng = random.Random(0)
    scenes = [random_scene(rng) for _ in range(8)]
    expected = torch.stack([preprocess(render(scene)) for scene in scenes])
    assert torch.allclose(image_batch(scenes), expected, atol=1e-6)


def test_runs_of_keywords_become_one_placeholder():
    masked = mask_keywords("a photo of a small striped red circle on the left side against a green background")
    assert masked == "a photo of a $ on the $ side against a $ background"

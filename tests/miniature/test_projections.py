"""The programs that train the projection modules: a few steps of each, their inputs and outputs."""

import random
from pathlib import Path

import pytest
import rtd_recipes.miniature
import torch
from rtd_recipes.miniature import make_lincir, make_pic2word, make_searle, projections
from safetensors.torch import load_file

from rtd_plugin.clip.tokens import END, Prompt, encode_text, pad
from rtd_plugin.contract import plugins
from rtd_plugin.contract.adapter import load_projection
from rtd_plugin.miniature import splits
from rtd_plugin.miniature.world import HELD_OUT

FOLDER = Path(rtd_recipes.miniature.__file__).parent
PROGRAMS = {"lincir": make_lincir, "searle": make_searle, "pic2word": make_pic2word}
FEW = {
    "lincir": {"CAPTIONS": 40},
    "searle": {"IMAGES": 40, "INVERSION_STEPS": 2, "SENTENCES": 3},
    "pic2word": {"IMAGES": 40},
}


@pytest.fixture(scope="module")
def tower():
    return projections.backbone(FOLDER).load_text_tower().requires_grad_(False)


@pytest.fixture
def make(monkeypatch, tmp_path):
    """Run a program as its command line does, on few scenes, and give the file that it wrote."""

    def make_projection(method, seed=0):
        program, out = PROGRAMS[method], tmp_path / f"{method}-{seed}"
        for name, few in FEW[method].items():
            monkeypatch.setattr(program, name, few)
        monkeypatch.setattr("sys.argv", ["make", str(FOLDER), str(out), "--seed", str(seed)])
        projections.main(method, program.train, steps=2, batch_size=8)
        return out / f"{method}.safetensors"

    return make_projection


@pytest.mark.parametrize("method", PROGRAMS)
def test_a_few_steps_give_a_projection_of_the_method(make, method, tower):
    file = make(method)
    projection = load_projection(plugins.find_adapter(method), file, tower.features, tower.width)
    assert projection(torch.randn(3, tower.features)).shape == (3, tower.width)
    first, again, other = (load_file(path) for path in (file, make(method), make(method, seed=1)))
    assert all(first[key].equal(again[key]) for key in first)
    assert not any(first[key].equal(other[key]) for key in first)


@pytest.mark.parametrize("method", PROGRAMS)
def test_training_uses_no_reserved_scene(make, monkeypatch, method):
    """Images and captions show only training scenes: no program makes scenes in another way."""
    shown = []

    def record_scenes(rng):
        for scene in splits.draw_training_scenes(rng):
            shown.append(scene)
            yield scene

    pictured = []
    image_batch = projections.image_batch
    monkeypatch.setattr(PROGRAMS[method], "draw_training_scenes", record_scenes)
    monkeypatch.setattr(projections, "image_batch", lambda scenes: pictured.extend(scenes) or image_batch(scenes))
    make(method)
    assert shown
    assert all(splits.may_train(scene) for scene in shown)
    assert set(pictured) <= set(shown)
    assert bool(pictured) == (method != "lincir")


def test_concepts_are_not_held_out_pairs():
    assert len(make_searle.CONCEPTS) == 30
    assert not {f"{colour} {shape}" for colour, shape in HELD_OUT} & set(make_searle.CONCEPTS)


def test_sentences_are_about_their_concepts(tower, monkeypatch):
    """With the concept's words instead of the placeholder, a sentence has the feature that it must keep."""
    monkeypatch.setattr(make_searle, "SENTENCES", 5)
    sentences = make_searle.Sentences(tower, random.Random(0))
    for concept, masked, features in zip(make_searle.CONCEPTS, sentences.masked, sentences.features, strict=True):
        words = encode_text(concept)
        texts = []
        for row in masked.tolist():
            assert row.count(259) == 1
            text = row[1 : row.index(END)]
            at = text.index(259)
            texts.append(text[:at] + words + text[at + 1 :])
        assert torch.allclose(tower.encode(pad(texts)), features, atol=1e-4)


def test_nearest_concepts_are_those_that_a_picture_shows(tower):
    scenes = splits.draw_training_scenes(random.Random(0))
    scenes = [scene for scene, _ in zip(scenes, range(100), strict=False) if len(scene.things) == 1]
    pictures = projections.encode_images(projections.backbone(FOLDER), scenes)
    nearest = make_searle.Sentences(tower, random.Random(0)).find_nearest(pictures)
    shown = [make_searle.CONCEPTS.index(f"{s.things[0].colour} {s.things[0].shape}") for s in scenes]
    assert (nearest == torch.tensor(shown).unsqueeze(1)).any(dim=1).float().mean() > 0.9


def test_inversion_reduces_the_distance_to_the_pictures(tower, monkeypatch):
    monkeypatch.setattr(make_searle, "REGULARISER", 0)
    sentences = make_searle.Sentences(tower, random.Random(0))
    scenes = splits.draw_training_scenes(random.Random(0))
    pictures = projections.encode_images(projections.backbone(FOLDER), [next(scenes) for _ in range(16)])
    prompt = pad([Prompt("a photo of $").encode()]).expand(16, -1)
    distances = []
    for steps in (1, 40):
        found = tower.encode(prompt, make_searle.invert(pictures, sentences, steps))
        distances.append(1 - torch.cosine_similarity(found, pictures).mean().item())
    assert distances[1] < distances[0] / 2

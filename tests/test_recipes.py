"""The shipped recipes: each has the adapter and backbone of its name, in the published setting."""

from itertools import product
from pathlib import Path

import open_clip
import pytest
import rtd_recipes
import torch

from rtd_plugin.clip.tower import TextTower
from rtd_plugin.contract import plugins
from rtd_plugin.training.recipe import read_recipe

FOLDER = Path(rtd_recipes.__file__).parent
ADAPTERS = ("lincir", "searle", "pic2word")
BACKBONES = {  # by what a recipe's name calls them: open_clip's architecture and tag
    "vit-b-32": ("ViT-B-32", "openai"),
    "vit-l-14": ("ViT-L-14", "openai"),
    "vit-h-14": ("ViT-H-14", "laion2b_s32b_b79k"),
    "vit-bigg-14": ("ViT-bigG-14", "laion2b_s39b_b160k"),
    "metaclip-l-14": ("ViT-L-14-quickgelu", "metaclip_fullcc"),
    "metaclip-h-14": ("ViT-H-14-quickgelu", "metaclip_fullcc"),
}
RECIPES = [f"{adapter}-{backbone}" for adapter, backbone in product(ADAPTERS, BACKBONES)]
PUBLISHED = {
    "objective": {
        "temperature": 0.07,
        "noise_scale": 0.5,
        "hard_negatives": True,
        "concatenation": "projected",
        "negatives": "local",
    },
    "wording": {"noise": 0, "sample": False, "consistency": 0},
    "optimizer": {
        "learning_rate": 1e-5,
        "weight_decay": 0.01,
        "schedule": "constant",
        "warmup_steps": 0,
        "max_grad_norm": None,
    },
    "steps": 2000,
    "batch_size": 128,
    "accumulation": 1,
    "engine": "fast",
    "activation_checkpointing": False,
    "compile": False,
    "precision": "bf16",
    "gradient_precision": "fp32",
    "shuffle": True,
    "seed": 12345,
    "validation": None,
    "evaluation": None,
    "checkpoints": {"every": 100, "keep": 2},
    "tracker": None,
}


def read(name):
    return read_recipe(plugins.find_recipe(name), ["projection=phi.pt", "triplets.0.path=triplets.jsonl"])


def miniatures():
    return [path.stem for path in sorted(FOLDER.glob("miniature/*.yaml"))]


def test_there_is_a_recipe_for_every_adapter_and_backbone():
    shipped = {name for name, recipe in plugins.list_recipes().items() if recipe.path.is_relative_to(FOLDER)}
    assert shipped == {*RECIPES, *miniatures()}
    assert len(miniatures()) == len(ADAPTERS)


def test_published_recipes_differ_only_in_adapter_and_comments():
    texts = {adapter: (FOLDER / f"{adapter}.yaml").read_text() for adapter in ADAPTERS}
    assert len({text.split(f"adapter: {adapter}\n")[1] for adapter, text in texts.items()}) == 1


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_have_the_published_setting(name):
    values = read(name).to_dict()
    adapter, backbone = name.split("-", 1)
    model, tag = BACKBONES[backbone]
    assert values.pop("adapter") == adapter
    assert values.pop("backbone") == {"model": model, "pretrained": tag, "checkpoint": None}
    assert values.pop("projection") == str(Path.cwd() / "phi.pt")
    (triplets,) = values.pop("triplets")
    assert (triplets["source"], triplets["path"]) == ("json", str(Path.cwd() / "triplets.jsonl"))
    assert values == PUBLISHED


@pytest.mark.parametrize("name", miniatures())
def test_miniatures_are_complete(name):
    recipe = read_recipe(plugins.find_recipe(name))
    assert recipe.adapter == name.split("-")[0]
    needed = (recipe.projection, recipe.backbone.checkpoint, Path(recipe.backbone.model))
    assert all(path.is_relative_to(FOLDER) and path.is_file() for path in needed)
    assert recipe.precision == "fp32"  # works without a GPU
    assert recipe.evaluation.name == "miniature"


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_activation_is_that_of_the_tag(backbone, monkeypatch, tmp_path):
    """open_clip has the tag for the architecture, and its record names the activation."""
    model, tag = BACKBONES[backbone]
    assert (model, tag) in open_clip.list_pretrained()
    config = open_clip.get_model_config(model)
    heads = config["text_cfg"]["heads"]
    text = {**config["text_cfg"], "width": 8 * heads, "layers": 1}
    small = TextTower(width=text["width"], heads=heads, layers=1)
    torch.save(small.state_dict(), tmp_path / "clip.pt")
    monkeypatch.setattr("open_clip.pretrained.download_pretrained", lambda _: tmp_path / "clip.pt")
    architectures = {model: {**config, "embed_dim": small.features, "text_cfg": text}}
    monkeypatch.setattr("rtd_plugin.clip.backbones.read_architecture", architectures.__getitem__)
    tower = read(f"lincir-{backbone}").backbone.load_text_tower()
    assert tower.activation == ("quick_gelu" if open_clip.get_pretrained_cfg(model, tag).get("quick_gelu") else "gelu")
    assert tower.heads == heads

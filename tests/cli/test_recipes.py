"""`rtd-plugin recipes`."""

import json

import pytest
import yaml

from rtd_plugin.contract import plugins
from rtd_plugin.contract.recipe_files import RecipeFile
from rtd_plugin.training.recipe import read_recipe


@pytest.fixture
def shipped_recipes(files, monkeypatch):
    """Plugins that ship tiny.yaml alone, under the name `tiny`."""
    recipes = {"tiny": RecipeFile(files / "tiny.yaml", "tiny")}
    monkeypatch.setattr(plugins, "list_recipes", lambda: recipes)
    return recipes


def test_list(rtd, shipped_recipes):
    assert rtd("recipes").stdout.splitlines()[3] == "│ tiny   │ lincir  │ model.json │ 6     │"
    assert json.loads(rtd("recipes", "--json").stdout) == {"recipes": ["tiny"]}


def test_show(rtd, shipped_recipes, files):
    text = (files / "tiny.yaml").read_text()
    for name in ("model.json", "clip.pt", "phi.pt", "triplets.jsonl"):
        assert text.count(name) == 1
        text = text.replace(name, json.dumps(str(files / name)))
    assert rtd("recipes", "tiny").stdout == text
    shown = json.loads(rtd("recipes", "tiny", "--json").stdout)
    assert shown == {"name": "tiny", "recipe": yaml.safe_load(text)}


@pytest.mark.parametrize("name", ["lincir-vit-h-14", "searle-miniature"])
def test_a_printed_recipe_is_the_same_recipe_in_another_folder(rtd, name, tmp_path):
    (tmp_path / "my.yaml").write_text(rtd("recipes", name).stdout)
    overrides = ["projection=phi.pt", "triplets=[{source: json, path: triplets.jsonl}]"] if "vit" in name else []
    assert read_recipe(tmp_path / "my.yaml", overrides) == read_recipe(plugins.find_recipe(name), overrides)


def test_unknown(rtd, shipped_recipes):
    done = rtd("recipes", "tinny")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "unknown recipe 'tinny': installed are tiny" in done.stderr


@pytest.mark.parametrize("text", ["a: [1", "- 1", ""])
@pytest.mark.parametrize("args", [(), ("broken",), ("broken", "--json")])
def test_broken(rtd, shipped_recipes, tmp_path, text, args):
    shipped_recipes["broken"] = RecipeFile(tmp_path / "broken.yaml", "broken")
    shipped_recipes["broken"].path.write_text(text)
    done = rtd("recipes", *args)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"Error: {tmp_path}/broken.yaml")
    assert ": not a recipe" in done.stderr or ", line 1: not YAML" in done.stderr
    assert done.stderr.count("\n") == 1

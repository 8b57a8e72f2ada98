"""Recipes are read; errors name key, file and line."""

from pathlib import Path

import pytest
import yaml

from rtd_plugin.contract import plugins
from rtd_plugin.contract.recipe_files import RecipeFile, list_recipe_files
from rtd_plugin.errors import RTDError, UsageError
from rtd_plugin.training.recipe import Recipe, read_recipe
from rtd_plugin.training.run import resume_recipe, write_recipe
from rtd_plugin.training.yaml_lines import name_files
from rtd_plugin.workflows.catalogue import load_recipe

TEXT = """\
# comments count as lines
adapter: lincir
backbone:
  model: ViT-L-14
  pretrained: openai

projection: models/lincir_large.pt
triplets:
  - {source: json, path: LLM_triplets.json}
  - source: json
    path: /data/more.jsonl
    skip_invalid: true
"""


@pytest.fixture
def read(tmp_path):
    def read(text=TEXT, *overrides, **more):
        (tmp_path / "my.yaml").write_text(text)
        return read_recipe(tmp_path / "my.yaml", overrides, **more)

    return read


def test_defaults_are_the_published_setting(read):
    recipe = read()
    assert recipe.objective.model_dump() == {
        "temperature": 0.07,
        "noise_scale": 0.5,
        "hard_negatives": True,
        "concatenation": "projected",
        "negatives": "local",
    }
    assert recipe.wording.model_dump() == {"noise": 0, "sample": False, "consistency": 0}
    assert recipe.optimizer.model_dump() == {
        "learning_rate": 1e-5,
        "weight_decay": 0.01,
        "schedule": "constant",
        "warmup_steps": 0,
        "max_grad_norm": None,
    }
    assert (recipe.steps, recipe.batch_size, recipe.accumulation, recipe.precision) == (2000, 128, 1, "fp16")
    assert (recipe.shuffle, recipe.seed, recipe.validation, recipe.tracker) == (True, 12345, None, None)
    assert recipe.checkpoints.model_dump() == {"every": 100, "keep": 2}


def test_paths_are_relative_to_the_file_and_overrides_to_the_current_folder(read, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", "/home/ada")
    recipe = read(TEXT, "triplets.1.path=mine.jsonl", "backbone={model: m.json, checkpoint: ~/w.pt}")
    assert recipe.projection == tmp_path / "models/lincir_large.pt"
    assert [source.path for source in recipe.triplets] == [tmp_path / "LLM_triplets.json", here / "mine.jsonl"]
    assert recipe.backbone.model == str(here / "m.json")
    assert recipe.backbone.checkpoint == Path("/home/ada/w.pt")
    whole = read(TEXT, "triplets=[{source: json, path: list.jsonl}]", "projection=~unknown-user/p.pt")
    assert whole.triplets[0].path == here / "list.jsonl"
    assert whole.projection == here / "~unknown-user/p.pt"


def test_overrides(read):
    recipe = read(
        TEXT,
        "optimizer.learning_rate=1e-4",
        "validation.benchmark=shelf",
        "validation.data=d",
        "validation.every=5",
        "triplets.1.skip_invalid=false",
        "backbone.pretrained=null",
        "tracker=tensorboard",
        "tracker=",
        "precision=bf16",
        "steps=7",
    )
    assert recipe.optimizer.learning_rate == 1e-4
    assert (recipe.validation.every, recipe.validation.benchmark.books) == (5, 3)
    assert not recipe.triplets[1].skip_invalid
    assert recipe.backbone.pretrained is None
    assert (recipe.tracker, recipe.precision, recipe.steps) == (None, "bf16", 7)
    assert read(TEXT.replace("adapter: lincir\n", ""), adapter="lincir").adapter == "lincir"


def test_override_of_an_alias_leaves_the_other_key(read):
    text = TEXT + "validation: &shelf {benchmark: shelf, data: d}\nevaluation: *shelf\n"
    recipe = read(text, "validation.books=8")
    assert (recipe.validation.benchmark.books, recipe.evaluation.books) == (8, 3)


def test_written_recipe_is_the_same_read_again(read, tmp_path):
    overrides = (
        "validation={benchmark: shelf, data: d, every: 7, select: seen.recall_at_5}",
        "evaluation={benchmark: shelf, data: Bücher, books: 9}",
        "optimizer.learning_rate=2.5e-6",
        "optimizer.max_grad_norm=1",
        "backbone.model=RN50",
        "objective.temperature=0.1",
        "seed=9223372036854775807",
    )
    recipe = read(TEXT, *overrides)
    write_recipe(recipe, tmp_path / "run")
    file = tmp_path / "run" / "recipe.yaml"
    assert read_recipe(file) == recipe
    assert list(yaml.safe_load(file.read_text())) == list(Recipe.model_fields)
    assert "Bücher" in file.read_text()
    assert yaml.safe_load(file.read_text())["validation"] == {
        "benchmark": "shelf",
        "data": str(Path.cwd() / "d"),
        "skip_unreadable": False,
        "books": 3,
        "every": 7,
        "select": "seen.recall_at_5",
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("stepz: 5", "line 13: stepz: no such key"),
        ("\n\noptimizer:\n  schedule: constant\n  momentum: 0.9", "line 17: optimizer.momentum: no such key"),
        ("objective: {noize: 1}", "line 13: objective.noize: no such key"),
        ("steps: soon", "line 13: steps: input should be a valid integer"),
        ("steps: 0", "line 13: steps: input should be greater than 0, found 0"),
        ("batch_size: 1", "line 13: batch_size: input should be greater than 1, found 1"),
        ("precision: fp8", "line 13: precision: input should be 'fp32', 'bf16' or 'fp16', found 'fp8'"),
        ("objective: {temperature: .inf}", "line 13: objective.temperature: input should be a finite number"),
        ("wording: {noise: 1}", "line 13: wording.noise: input should be less than 1, found 1"),
        ("objective: 3", "line 13: objective: expected a mapping, found 3"),
        ("shuffle: 5", "line 13: shuffle: input should be a valid boolean"),
        ("tracker: notebook", "line 13: tracker: accelerate has no tracker 'notebook', only "),
        ("validation: {benchmark: chair}", "line 13: validation.benchmark: unknown benchmark 'chair'"),
        ("validation: {every: 5}", "line 13: validation: needs benchmark: NAME and its options"),
        ("validation: {triplets: 1}", "line 13: validation.triplets: input should be less than 1, found 1"),
        ("validation: {triplets: }", "line 13: validation: needs benchmark: NAME and its options, or triplets: SHARE"),
        ("validation: {benchmark: shelf, triplets: 0.1, data: d}", "line 13: validation.triplets: no such key"),
        ("validation: yes", "line 13: validation: expected a mapping, found True"),
        ("validation:\n  benchmark: shelf", "line 13: validation.data: is missing: add it, or pass --set"),
        ("validation:\n  benchmark: shelf\n  data: d\n  evry: 5", "line 16: validation.evry: no such key"),
        ("validation:\n  benchmark: shelf\n  data: d\n  every: -5", "line 16: validation.every: input should be"),
        ("evaluation:\n  benchmark: shelf\n  data: d\n  books: -1", "line 13: evaluation: a shelf cannot hold less"),
        ("evaluation: shelf", "line 13: evaluation: expected benchmark: NAME"),
        ("5: 6", "line 13: 5: "),
        ("adapter: lincir", "line 13: not YAML: the key 'adapter' is given twice"),
        ("optimizer:\n  schedule: linear\n  schedule: cosine", "line 15: not YAML: the key 'schedule' is given twice"),
        ("steps:\t5\n\tseed: 1", "line 13: not YAML: found character '\\t'"),
        ("seed: !!python/object/apply:os.getpid []", "line 13: not YAML: could not determine a constructor"),
        ("seed: [1,", "line 14: not YAML: "),
        ("seed: 2001-99-99", "line 13: not YAML: month must be in 1..12"),
        ("seed: *nothing", "line 13: not YAML: found undefined alias 'nothing'"),
        ("# \x07", "line 13: not YAML: the character #x0007 is not allowed"),
        ("seed: " + "[" * 1000, "line 1: not YAML: nested too deeply"),
    ],
)  # fmt: skip
def test_errors_name_key_file_and_line(read, tmp_path, wrong, message):
    with pytest.raises(UsageError) as error:
        read(f"{TEXT}{wrong}\n")
    assert str(error.value).startswith(f"{tmp_path}/my.yaml, {message}")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("adapter: lincir\n", "", "line 1: adapter: is missing: add it, or pass --set adapter=…"),
        ("projection: models/lincir_large.pt\n", "", "line 1: projection: is missing"),
        ("adapter: lincir", "adapter: pix2pix", "line 2: adapter: unknown adapter 'pix2pix': installed are "),
        ("pretrained", "pretraned", "line 5: backbone.pretraned: no such key"),
        ("model: ViT-L-14", "model: 5", "line 4: backbone.model: input should be a valid string, found 5"),
        ("source: json, path", "source: none, path", "line 9: triplets.0.source: unknown triplet source 'none'"),
        ("{source: json, path: LLM_triplets.json}", "LLM.json", "line 9: triplets.0: expected source: NAME"),
        ("    path: /data/more.jsonl\n", "", "line 10: triplets.1.path: is missing: add it, or pass --set triplets.1"),
        ("skip_invalid: true", "skip_invalid: maybe", "line 12: triplets.1.skip_invalid: input should be a valid"),
        ("skip_invalid: true", "skip: true", "line 12: triplets.1.skip: no such key"),
        ("path: /data/more.jsonl", "path: 7", "line 11: triplets.1.path: "),
    ],
)  # fmt: skip
def test_errors_in_required_keys(read, tmp_path, old, new, message):
    assert old in TEXT
    with pytest.raises(UsageError) as error:
        read(TEXT.replace(old, new))
    assert str(error.value).startswith(f"{tmp_path}/my.yaml, {message}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stepz=5", "--set stepz: no such key"),
        ("steps=-1", "--set steps: input should be greater than 0, found -1"),
        ("optimizer={lr: 1}", "--set optimizer.lr: no such key"),
        ("adapter=pix2pix", "--set adapter: unknown adapter 'pix2pix'"),
        ("validation.every=5", "--set validation: needs benchmark: NAME and its options"),
        ("triplets.1.source=nonsense", "--set triplets.1.source: unknown triplet source 'nonsense'"),
        ("triplets=[]", "--set triplets: list should have at least 1 item"),
        ("triplets.2.path=x", "--set triplets.2.path=x: '2' is not the index of one of 2 entries, from 0"),
        ("triplets.²=x", "--set triplets.²=x: '²' is not the index"),
        ("projection.file=x", "--set projection.file=x: 'models/lincir_large.pt' is a value, and has no key 'file'"),
        ("steps", "--set steps: expected key=value"),
        ("=5", "--set =5: expected key=value"),
        ("steps=[1", "--set steps=[1: the value is not YAML: "),
        ("steps=!!python/name:os.system", "--set steps=!!python/name:os.system: the value is not YAML: could not"),
    ],
)
def test_errors_of_overrides(read, override, message):
    with pytest.raises(UsageError) as error:
        read(TEXT, "seed=1", override)
    assert str(error.value).startswith(message)


def test_errors_in_other_keys_do_not_name_the_override(read):
    with pytest.raises(UsageError, match=r"my.yaml, line 13: stepz: no such key"):
        read(TEXT + "stepz: 1\n", "steps=5")


@pytest.mark.parametrize("content", [b"", b"- adapter", b"lincir", b"# nothing"])
def test_not_a_mapping(tmp_path, content):
    (tmp_path / "my.yaml").write_bytes(content)
    with pytest.raises(UsageError, match=r"my.yaml: not a recipe: expected a mapping"):
        read_recipe(tmp_path / "my.yaml")


def test_unreadable_files(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"adapter: \xe9")
    with pytest.raises(UsageError, match=r"latin.yaml: not a text in UTF-8"):
        read_recipe(tmp_path / "latin.yaml")
    with pytest.raises(UsageError, match=r"cannot be read \(Is a directory\)"):
        read_recipe(tmp_path)


def test_byte_order_mark_is_not_read_as_text(tmp_path):
    (tmp_path / "my.yaml").write_bytes(b"\xef\xbb\xbf" + TEXT.split("\n", 1)[1].encode())
    assert read_recipe(tmp_path / "my.yaml").adapter == "lincir"


def test_find_recipe(tmp_path):
    (tmp_path / "mine.yaml").write_text(TEXT)
    assert plugins.find_recipe(str(tmp_path / "mine.yaml")) == RecipeFile(tmp_path / "mine.yaml", "mine")
    with pytest.raises(UsageError, match=r"other.yaml: no such recipe file"):
        plugins.find_recipe(str(tmp_path / "other.yaml"))
    with pytest.raises(UsageError, match="unknown recipe 'other': installed are "):
        plugins.find_recipe("other")


def test_resume_recipe_changes_only_what_may_change(read, tmp_path):
    began = read()
    write_recipe(began, tmp_path / "run")
    resumed = resume_recipe(tmp_path / "run", ("steps=9", "checkpoints.every=3", "tracker=tensorboard"), "lincir")
    assert (resumed.steps, resumed.checkpoints.every, resumed.tracker) == (9, 3, "tensorboard")
    assert resumed.projection == began.projection
    with pytest.raises(UsageError, match="cannot resume with another batch_size than it started with \\(128\\)"):
        resume_recipe(tmp_path / "run", ("batch_size=9",), None)
    for key, override in (("objective", "objective.temperature=1"), ("wording", "wording.sample=true")):
        with pytest.raises(UsageError, match=f"another {key}"):
            resume_recipe(tmp_path / "run", (override,), None)


def test_a_shipped_recipe_says_what_it_needs():
    recipe = plugins.find_recipe("lincir-vit-h-14")
    lines = recipe.path.read_text().splitlines()
    for key, line, overrides in (
        ("triplets.0.path", "    path: null", []),
        ("projection", "projection: null", ["triplets.0.path=triplets.jsonl"]),
    ):
        with pytest.raises(UsageError) as error:
            read_recipe(recipe, overrides)
        where = f"{recipe.path}, line {lines.index(line) + 1}"
        assert str(error.value) == f"{where}: {key}: is missing: add it, or pass --set {key}=…"


@pytest.fixture
def write_folder(tmp_path):
    """Write a folder with my.yaml and a table of backbones, and return its recipes by name."""

    def write(text, backbones='{"small": {"model": "RN50", "pretrained": "yfcc15m"}, "local": {"model": "m.json"}}'):
        (tmp_path / "my.yaml").write_text(text)
        (tmp_path / "backbones.json").write_text(backbones)
        return {recipe.name: recipe for recipe in list_recipe_files(tmp_path)}

    return write


def test_a_table_of_backbones_gives_a_recipe_for_each(write_folder, tmp_path):
    recipes = write_folder(TEXT)
    assert list(recipes) == ["my-small", "my-local"]
    small, local = map(read_recipe, recipes.values())
    assert (small.backbone.model, small.backbone.pretrained) == ("RN50", "yfcc15m")
    assert (local.backbone.model, local.backbone.pretrained) == (str(tmp_path / "m.json"), "openai")
    assert read_recipe(write_folder(TEXT.replace("openai", ""))["my-small"]) == small
    assert small.projection == local.projection == tmp_path / "models/lincir_large.pt"


def test_errors_of_a_replaced_backbone_keep_the_lines_of_the_file(write_folder, tmp_path):
    recipes = write_folder(TEXT.replace("  model: ViT-L-14\n", "  model:\n    ViT-L-14\n") + "stepz: 1\n")
    with pytest.raises(UsageError, match=r"my.yaml, line 14: stepz: no such key"):
        read_recipe(recipes["my-small"])
    with pytest.raises(
        UsageError, match=r"my.yaml: needs backbone.pretrained, which the backbone of my-small replaces"
    ):
        read_recipe(write_folder(TEXT.replace("  pretrained: openai\n", ""))["my-small"])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('{"small": {"model": 5}}', "backbones.json: small: needs a model and a pretrained tag, found {'model': 5}"),
        ('{"small": {"steps": "5"}}', "backbones.json: small: needs a model and a pretrained tag"),
        ('{"small": null}', "backbones.json: small: needs a model and a pretrained tag, found None"),
        ("[]", "backbones.json: not a JSON object"),
        ("{", "backbones.json: not a readable JSON file"),
    ],
)
def test_broken_tables_of_backbones(write_folder, table, message):
    with pytest.raises(RTDError, match=message):
        write_folder(TEXT, table)


def test_name_files(tmp_path):
    for name in ("openai", "lincir", "LLM.json", "é: #.pt", "last.ckpt", "before", "val"):
        (tmp_path / name).touch()
    text = """\
adapter: lincir  # a name, not the file beside it
projection: 'é: #.pt'
backbone: {pretrained: openai, checkpoint: "last.ckpt#ema"}
validation: {benchmark: cirr, split: val}
steps: 5
tracker:
triplets: [{source: json, path: &file LLM.json}, {columns: {reference: before}, path: *file}, {path: LLM.jsonl}]
"""
    named = name_files(text, tmp_path)
    assert yaml.safe_load(named) == {
        "adapter": "lincir",
        "projection": str(tmp_path / "é: #.pt"),
        "backbone": {"pretrained": "openai", "checkpoint": str(tmp_path / "last.ckpt#ema")},
        "validation": {"benchmark": "cirr", "split": "val"},
        "steps": 5,
        "tracker": None,
        "triplets": [
            {"source": "json", "path": str(tmp_path / "LLM.json")},
            {"columns": {"reference": "before"}, "path": str(tmp_path / "LLM.json")},
            {"path": "LLM.jsonl"},
        ],
    }
    assert "adapter: lincir  # a name, not the file beside it\n" in named
    assert name_files(named, tmp_path / "elsewhere") == named


@pytest.mark.parametrize("name", plugins.list_recipes())
def test_a_printed_recipe_is_the_same_recipe_anywhere(name, tmp_path, monkeypatch):
    """`rtd-plugin recipes NAME > my.yaml` is where the documentation begins."""
    (tmp_path / "my recipes").mkdir()
    monkeypatch.chdir(tmp_path)
    text, values = load_recipe(name)
    Path("my recipes/my.yaml").write_text(text)
    overrides = ["projection=phi.pt", "triplets.0.path=triplets.json"] if values["projection"] is None else []
    expected = read_recipe(plugins.find_recipe(name), overrides)
    assert read_recipe(Path("my recipes/my.yaml"), overrides) == expected
    assert load_recipe("my recipes/my.yaml") == (text, values)
    assert bool(overrides) or (expected.projection.is_file() and expected.backbone.checkpoint.is_file())

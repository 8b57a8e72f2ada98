"""Adapters of three third parties, installed as packages: checks, doctor, patching, training, evaluation.

Palette's function takes texts without a placeholder, Stencil's placeholder has an id of its own, and Atlas's projection
reads the query's text, patch tokens and a second file, for two composed queries whose features it averages.
"""

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from click.testing import CliRunner
from clip.model import CLIP
from PIL import Image
from torch.nn import functional as F

import rtd_plugin
from rtd_plugin.cli.main import main
from rtd_plugin.clip.tokens import pad
from rtd_plugin.contract import ProjectionInputs, plugins
from rtd_plugin.errors import RTDError, UsageError
from rtd_plugin.evaluation import encoding
from rtd_plugin.evaluation.benchmarks.folder import Folder
from rtd_plugin.evaluation.retrieval import Retrieval
from rtd_plugin.patching.function_replacement import find_function
from rtd_plugin.patching.host_model import copy_text_tower
from rtd_plugin.search.searcher import Searcher
from rtd_plugin.testing import check_adapter
from rtd_plugin.testing.fixtures import randomise
from rtd_plugin.workflows.loading import load_models
from rtd_plugin.workflows.onnx import export_onnx
from rtd_plugin.workflows.patch import diagnose, patch

ROOT = Path(__file__).parent / "third_party" / "relatives"
NAMES = ("palette", "stencil", "atlas")
MODEL = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> Path:
    """A folder with the package and what pip writes beside it."""
    folder = tmp_path_factory.mktemp("packages")
    shutil.copytree(ROOT / "rtd_relatives", folder / "rtd_relatives")
    info = folder / "rtd_relatives-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rtd-relatives\nVersion: 1.0\n")
    lines = (ROOT / "pyproject.toml").read_text().split("[project.entry-points.rtd_plugin]\n")[1].replace('"', "")
    (info / "entry_points.txt").write_text(f"[rtd_plugin]\n{lines}")
    return folder


@pytest.fixture
def installed(packages, monkeypatch):
    monkeypatch.syspath_prepend(packages)
    monkeypatch.setenv("PYTHONPATH", str(packages))
    plugins.get_plugin_manager.cache_clear()
    yield packages
    plugins.get_plugin_manager.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "rtd_relatives"]:
        del sys.modules[name]


@pytest.fixture
def copy_host(tmp_path):
    return lambda name: shutil.copytree(ROOT / "hosts" / name, tmp_path / name)


def save_projection(adapter, folder):
    """Write an untrained projection as the method does; return its file or files."""
    torch.manual_seed(0)
    checkpoint = adapter.projection_checkpoint(adapter.build_projection({}, 64, 64).state_dict())
    contents = checkpoint if adapter.projection_files else {"projection": checkpoint}
    for name, content in contents.items():
        torch.save(content, folder / f"{name}.pt")
    files = {name: str(folder / f"{name}.pt") for name in contents}
    return files if adapter.projection_files else files["projection"]


def test_adapters_are_short():
    for name in NAMES:
        assert len((ROOT / "rtd_relatives" / f"{name}.py").read_text().splitlines()) < 60


@pytest.mark.parametrize("name", NAMES)
def test_they_pass_the_checks(installed, name):
    check_adapter(plugins.find_adapter(name))


@pytest.mark.slow
def test_pytest_checks_an_installed_adapter_and_its_code(installed, copy_host, tmp_path):
    options = ["--rtd-adapter", "palette", "--rtd-host", str(copy_host("palette")), "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-v", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "rtd-adapter::palette::host PASSED" in done.stdout, done.stdout + done.stderr
    assert "11 passed" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["palette", "atlas"])
def test_the_doctor_compares_them_with_their_hosts(installed, copy_host, name):
    report = diagnose(copy_host(name))
    assert (report["adapter"], [point["outcome"] for point in report["points"]]) == (name, ["exact"])


TEXTS = torch.zeros(2, 77, dtype=torch.int64)
TEXTS[:, :7] = torch.tensor([[49406, 320, 7, 682, 49407, 0, 0], [49406, 9, 8, 7, 9, 5, 49407]])


def make_calls(name, model):
    """Yield calls of a host's function."""
    vectors = torch.randn(2, 64, generator=torch.Generator().manual_seed(3))
    if name == "palette":
        dollars = TEXTS.masked_fill(TEXTS == 7, 259)
        yield model, dollars, vectors
        yield model, TEXTS, vectors  # without a placeholder
        yield model, torch.cat([TEXTS[:1], dollars[1:]]), vectors
        yield model, dollars[:1], vectors
        yield model, dollars, vectors[:1]
    elif name == "stencil":
        module = sys.modules["lib.styles"]
        for marker in (49405, 49408):
            yield module.Styler(model), TEXTS.masked_fill(TEXTS == 7, marker), vectors, marker
    else:
        yield model, TEXTS.masked_fill(TEXTS == 7, 265), torch.stack([vectors, -vectors], dim=1)


@pytest.mark.parametrize("name", NAMES)
def test_a_patch_composes_as_the_tuned_weights_in_the_hosts_model(installed, copy_host, tmp_path, monkeypatch, name):
    """Its own function, with the tuned weights in its CLIP, gives what the patch gives with the pre-trained ones."""
    model = randomise(CLIP(64, 16, 1, 64, 16, 77, 49408, 64, 1, 1))
    tuned = randomise(copy_text_tower(model, None, None), seed=4)
    torch.save(tuned.state_dict(), tmp_path / "tuned.pt")
    root = copy_host(name)
    manifest, _ = patch(root, weights=tmp_path / "tuned.pt")
    assert manifest.not_copied is None, "its code is in the patch folder"
    monkeypatch.syspath_prepend(root)
    point = plugins.find_adapter(name).composition_points[0]
    module = importlib.import_module(point.modules[0])
    try:
        with torch.no_grad():
            with rtd_plugin.activate(manifest.folder) as active:
                patched = [find_function(module, point.name)(*call) for call in make_calls(name, model)]
            assert active.composed_queries == 2 * len(patched)
            model.load_state_dict({**model.state_dict(), **tuned.state_dict()})
            expected = [find_function(module, point.name)(*call) for call in make_calls(name, model)]
        for features, right in zip(patched, expected, strict=True):
            torch.testing.assert_close(features, right, rtol=1e-4, atol=1e-4)
    finally:
        for imported in (point.modules[0], point.modules[0].split(".")[0]):
            sys.modules.pop(imported, None)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbone")
    (folder / "model.json").write_text(json.dumps(MODEL))
    torch.save(randomise(open_clip.CLIP(**MODEL)).state_dict(), folder / "clip.pt")
    return {"model": str(folder / "model.json"), "checkpoint": str(folder / "clip.pt")}


@pytest.fixture
def recipe(backbone, tmp_path):
    """A function that returns a recipe of three steps for an adapter."""
    things = ("kettle", "ladder", "violin", "turtle", "lantern", "bicycle", "pear", "harbour")
    pairs = zip(things, reversed(things), strict=True)
    rows = [{"caption": f"a {thing}", "edit": f"is a {other}", "output": f"a {other}"} for thing, other in pairs]
    (tmp_path / "triplets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def recipe(name):
        return {
            "adapter": name,
            "backbone": backbone,
            "projection": save_projection(plugins.find_adapter(name), tmp_path),
            "triplets": [{"source": "json", "path": str(tmp_path / "triplets.jsonl")}],
            "steps": 3,
            "batch_size": 4,
            "precision": "fp32",
        }

    return recipe


def read_losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", NAMES)
def test_they_train_alike_with_either_engine(installed, recipe, tmp_path, name):
    runs = [
        rtd_plugin.train(recipe(name), overrides=[f"engine={engine}"], output=tmp_path / engine)
        for engine in ("plain", "fast")
    ]
    plain, fast = (read_losses(run.folder) for run in runs)
    assert fast == pytest.approx(plain, abs=1e-5)


def test_a_projection_that_reads_the_prompt_trains_on_it(installed, recipe, tmp_path, monkeypatch):
    """With indistinguishable prompts, the losses differ."""
    run = rtd_plugin.train(recipe("atlas"), output=tmp_path / "a")
    losses = read_losses(run.folder)
    with pytest.raises(RTDError, match="atlas: its projection reads more than images' features, so it"):
        export_onnx(run.folder, tmp_path / "onnx")
    blind = lambda self, projection, inputs: projection(inputs.features, torch.zeros_like(inputs.features))  # noqa: E731
    monkeypatch.setattr(type(plugins.find_adapter("atlas")), "project", blind)
    others = read_losses(rtd_plugin.train(recipe("atlas"), output=tmp_path / "b").folder)
    assert max(abs(one - other) for one, other in zip(losses, others, strict=True)) > 1e-4


def test_a_recipe_and_its_run_carry_several_files(installed, recipe, pictures, monkeypatch):
    """Paths in a file are relative to it, those of overrides to the current folder; a run names all its files."""
    monkeypatch.chdir(pictures)
    values = recipe("atlas")
    (pictures / "recipes").mkdir()
    (pictures / "checkpoint.pt").rename(pictures / "recipes" / "phi.pt")
    values["projection"] = {"checkpoint": "phi.pt", "database": "elsewhere.pt"}
    values["evaluation"] = {"benchmark": "folder", "data": str(pictures / "one")}
    (pictures / "recipes" / "atlas.yaml").write_text(json.dumps(values))
    options = ["--recipe", "recipes/atlas.yaml", "--set", "projection.database=database.pt", "--output", "run"]
    done = CliRunner().invoke(main, ["train", *options])
    assert done.exit_code == 0, done.output
    monkeypatch.chdir(pictures / "recipes")
    command = ["evaluate", "--weights", "../run", "--benchmark", "folder", "--data", "../one", "--json", "--cache", "c"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    files = {
        name: str(pictures / file) for name, file in (("checkpoint", "recipes/phi.pt"), ("database", "database.pt"))
    }
    result = json.loads(done.stdout)
    assert result["projection"] == files
    evaluated = json.loads((pictures / "run" / "results.json").read_text())["evaluation"]
    assert [each["metrics"] for each in evaluated["results"]] == [each["metrics"] for each in result["results"]]
    (pictures / "database.pt").unlink()
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1
    assert f"{pictures}/database.pt: no such file" in done.stderr


@pytest.mark.parametrize(
    ("name", "projection", "message"),
    [
        (
            "atlas",
            "phi.pt",
            r"projection of atlas needs several files, \{checkpoint: FILE, database: FILE\}, not",
        ),
        ("atlas", {"checkpoint": "a.pt"}, r"needs several files, .* not checkpoint: .*a\.pt"),
        ("palette", {"checkpoint": "a.pt"}, r"the projection of palette needs one file, not checkpoint: .*a\.pt"),
        (
            "palette",
            {"checkpoint": 3},
            r"projection: expected a file, or for some adapters a mapping of names to files, found",
        ),
        ("palette", [], r"projection: expected a file, or for some adapters a mapping of names to files, found \[\]"),
    ],
)
def test_projections_of_other_files_are_refused(installed, recipe, tmp_path, name, projection, message):
    with pytest.raises(UsageError, match=message):
        rtd_plugin.train({**recipe(name), "projection": projection}, output=tmp_path / "run")


@pytest.fixture
def pictures(tmp_path):
    """A folder of images with queries of one condition; and the same with two."""
    for folder, conditions in (("one", "is red"), ("two", ["is red", "has legs"])):
        (tmp_path / folder).mkdir()
        for index in range(6):
            pixels = torch.randint(256, (40, 36, 3), generator=torch.Generator().manual_seed(index))
            Image.fromarray(pixels.byte().numpy()).save(tmp_path / folder / f"{index}.png")
        queries = [{"reference": f"{i}.png", "condition": conditions, "target": f"{5 - i}.png"} for i in range(6)]
        (tmp_path / folder / "queries.jsonl").write_text("".join(json.dumps(query) + "\n" for query in queries))
    return tmp_path


def encode_atlas_query(models, image, prompt):
    """Encode a query of Atlas step by step."""
    adapter, visual, tower = models.adapter, models.images._encoder.visual, models.tower
    pixels = models.images._encoder.preprocess(image).unsqueeze(0)
    patches = visual.transformer(visual._embeds(pixels))
    tokens = pad([prompt])
    streams = adapter.project(models.projection, ProjectionInputs(visual(pixels), tokens, tower.encode, patches))
    first, second = (F.normalize(tower.encode(tokens, pair, 265)[0], dim=0) for pair in streams)
    return (first + second) / 2


def test_evaluation_and_search_project_each_query_with_its_text(installed, backbone, pictures, monkeypatch):
    """And with its image's patch tokens; of two conditions, each order's prompt."""
    adapter = plugins.find_adapter("atlas")
    projection = save_projection(adapter, pictures)
    models = load_models(adapter="atlas", projection=projection, cache=pictures / "cache", **backbone)
    monkeypatch.setattr(Retrieval, "rank", lambda self, features: features)
    monkeypatch.setattr(encoding, "BATCH_WITH_PATCHES", 4)
    for folder, prompts in (
        ("one", [adapter.prompt.encode(condition="is red")]),
        ("two", [adapter.encode_two("is red", "has legs"), adapter.encode_two("has legs", "is red")]),
    ):
        bench = Folder(data=pictures / folder)
        retrieval = Retrieval(bench, adapter, models.images, models.projection, models.tower)
        with torch.no_grad():
            features = retrieval.rank_composed(models.tower)
            for row, query in enumerate(retrieval.queries):
                image = bench.image(query.reference)
                encoded = [encode_atlas_query(models, image, prompt) for prompt in prompts]
                expected = F.normalize(torch.stack([F.normalize(each, dim=-1) for each in encoded]).mean(dim=0), dim=-1)
                torch.testing.assert_close(F.normalize(features[row], dim=-1), expected, rtol=1e-4, atol=1e-4)
    searcher = Searcher(adapter, models.images, models.projection, models.tower, models.tower)
    with torch.no_grad():
        composed = searcher.compose([pictures / "one/2.png", pictures / "one/3.png"], "is red")
        expected = [
            encode_atlas_query(models, bench.image(name), adapter.prompt.encode(condition="is red"))
            for name in ("2.png", "3.png")
        ]
    torch.testing.assert_close(composed, F.normalize(torch.stack(expected), dim=-1), rtol=1e-4, atol=1e-4)
    with pytest.raises(UsageError, match="atlas reads patch tokens: pass images instead of features"):
        searcher.compose(torch.ones(64) * 3, "is red")


def test_the_command_line_takes_several_files(installed, backbone, pictures, monkeypatch):
    monkeypatch.chdir(pictures)
    Path("t.jsonl").write_text('{"caption": "a red dog", "edit": "is blue", "output": "a blue dog"}\n')
    projection = save_projection(plugins.find_adapter("atlas"), pictures)
    files = [text for name in projection for text in ("--projection", f"{name}={name}.pt")]
    models = ["--adapter", "atlas", "--model", backbone["model"], "--checkpoint", backbone["checkpoint"]]
    done = CliRunner().invoke(
        main, ["evaluate", *models, *files, "--benchmark", "folder", "--data", "one", "--output", "x", "--cache", "c"]
    )
    assert done.exit_code == 0, done.output
    results = json.loads((pictures / "x/results.json").read_text())
    assert results["projection"] == projection
    assert "checkpoint.pt, database.pt" in (pictures / "x/report.html").read_text()
    done = CliRunner().invoke(main, ["triplets", "check", "t.jsonl", "--adapter", "atlas", "--json"])
    assert json.loads(done.output)["sound"] == 1, done.output
    files[1] = "phi.pt"
    done = CliRunner().invoke(main, ["evaluate", *models, *files, "--benchmark", "folder", "--data", "one"])
    assert done.exit_code == 2
    assert "--projection phi.pt: expected NAME=FILE, such as checkpoint=phi.pt" in done.output
    done = CliRunner().invoke(main, ["evaluate", *models, *files[:2], "--benchmark", "folder", "--data", "one"])
    assert done.exit_code == 2
    assert "the projection of atlas needs several files, {checkpoint: FILE, database: FILE}, not" in done.output

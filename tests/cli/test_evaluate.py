"""`rtd-plugin evaluate`, on small benchmarks in their own formats."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from benchmark_metrics import METRICS, groups_of
from PIL import Image
from safetensors.torch import save_file

import rtd_plugin
import rtd_plugin.errors
from rtd_plugin.clip.artifact import load_text_encoder
from rtd_plugin.clip.layouts import write_state_dict


@pytest.mark.parametrize("name", METRICS)
def test_results_have_metrics_before_and_after(evaluate, finished_run, name):
    result = evaluate(name, "--weights", finished_run)
    before, after = result["results"]
    assert (before["weights"], after["weights"]) == (None, str(finished_run))
    assert result["split"] == (None if name in ("folder", "genecis") else "val")
    for row in (before, after, *result["baselines"]):
        assert list(row["metrics"][name]) == list(row["intervals"][name]) == METRICS[name]
    assert list(after["gain"][name]) == METRICS[name]
    assert before["metrics"] != after["metrics"] or name in ("fashioniq", "folder")  # of which there is little here
    for metric, value in after["metrics"][name].items():
        if isinstance(value, float):
            assert after["gain"][name][metric]["difference"] == pytest.approx(value - before["metrics"][name][metric])
            assert after["intervals"][name][metric]["low"] <= value <= after["intervals"][name][metric]["high"]
    output = Path(result["output"])
    assert output == Path("evaluations", f"{name}-val" if result["split"] else name)
    assert json.loads((output / "results.json").read_text()) == result
    assert sorted(path.name for path in output.iterdir()) == ["ranks.jsonl", "report.html", "results.json"]
    queries = [json.loads(line) for line in (output / "ranks.jsonl").read_text().splitlines()]
    for row in (before, after):
        assert [query["ranks"][row["name"]] for query in queries] == row["ranks"]
        if name in ("cirr", "folder"):
            recall = 100 * sum(rank <= 5 for rank in row["ranks"]) / len(queries)
            assert recall == pytest.approx(row["metrics"][name]["recall_at_5"])
        if name == "cirr":
            recall = 100 * sum(query["subset_ranks"][row["name"]] == 1 for query in queries) / len(queries)
            assert recall == pytest.approx(row["metrics"][name]["subset_recall_at_1"])
    assert queries[0].keys() >= {"reference", "conditions", "targets"}
    if name in ("fashioniq", "genecis"):
        groups = [value["recall_at_1" if name == "genecis" else "recall_at_10"] for value in groups_of(before, name)]
        mean = before["metrics"][name]["recall_at_1" if name == "genecis" else "recall_at_10"]
        assert mean == pytest.approx(sum(groups) / len(groups))


def test_a_second_evaluation_reads_no_images(evaluate, finished_run, tmp_path, monkeypatch):
    """Also with another encoder, or another adapter of the same projection."""
    first = evaluate("cirr")
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", None)
        patch.setattr("rtd_plugin.workflows.evaluate.write_report", lambda *args: None)  # which shows pictures
        second = evaluate("cirr", "--weights", finished_run, "--adapter", "searle")
        assert second["results"][0]["metrics"] == first["results"][0]["metrics"]
        failed = evaluate("cirr", "--preprocess", "targetpad", fails=True)
        assert "18 images cannot be read" in failed.stderr


def test_python_returns_what_the_command_line_writes(evaluate, finished_run, files, tmp_path):
    printed = evaluate("fashioniq", "--weights", finished_run, "--output", "printed", "--seed", 3)
    returned = rtd_plugin.evaluate(
        "fashioniq",
        "fashioniq",
        adapter="lincir",
        model=str(files / "model.json"),
        checkpoint=files / "clip.pt",
        projection=str(files / "phi.pt"),
        weights=[finished_run],
        cache="cache",
        output="returned",
        seed=3,
    )
    for results in (printed, returned, stored := json.loads(Path("returned/results.json").read_text())):
        results.pop("seconds")
        results.pop("output")
        results.pop("date")
    assert json.dumps(returned) == json.dumps(printed) == json.dumps(stored)
    assert read_report("returned") == read_report("printed")


def read_report(folder):
    """The page without the date."""
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "", (Path(folder) / "report.html").read_text())


def test_options_in_python_are_values(evaluate, files, tmp_path):
    evaluate("genecis")
    results = rtd_plugin.evaluate(
        "genecis",
        "genecis",
        options={"tasks": ["focus_object"]},
        adapter="lincir",
        model=str(files / "model.json"),
        checkpoint=str(files / "clip.pt"),
        projection=files / "phi.pt",
    )
    assert results["tasks"] == ["focus_object"]
    with pytest.raises(rtd_plugin.errors.UsageError, match="preprocess: 'pad' is not one of clip, targetpad"):
        rtd_plugin.evaluate(
            "genecis",
            "genecis",
            adapter="lincir",
            model=str(files / "model.json"),
            checkpoint=str(files / "clip.pt"),
            projection=files / "phi.pt",
            preprocess="pad",
        )


def test_weights_named_like_the_baseline_get_a_folder(evaluate, finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "pre-trained")
    result = evaluate("circo", "--split", "test", "--weights", "pre-trained")
    assert len(result["submissions"]) == len(set(result["submissions"])) == 2
    rankings = [(Path(result["output"]) / name).read_text() for name in result["submissions"]]
    assert rankings[0] != rankings[1]
    assert len({row["name"] for row in result["results"]}) == 2


def test_weights_in_any_layout(evaluate, finished_run, tmp_path):
    """A run, its file, and what `export` makes of it."""
    tower = load_text_encoder(finished_run)
    save_file(write_state_dict(tower.state_dict(), "huggingface"), tmp_path / "hf.safetensors", {"format": "pt"})
    torch.save(write_state_dict(tower.state_dict(), "rtd"), tmp_path / "rtd.pt")
    torch.save(write_state_dict(tower.state_dict(), "openai"), tmp_path / "openai.pt")
    weights = [finished_run, finished_run / "text_encoder.safetensors", "hf.safetensors", "rtd.pt", "openai.pt"]
    result = evaluate("cirr", *(word for path in weights for word in ("--weights", path)))
    assert [row["weights"] for row in result["results"]] == [None, *map(str, weights)]
    before, *after = (row["metrics"] for row in result["results"])
    assert all(metrics == after[0] for metrics in after)
    assert before != after[0]
    assert len({row["name"] for row in result["results"]}) == 6


def test_a_run_names_its_adapter_backbone_and_projection(rtd, setup, write_dataset, finished_run, files, tmp_path):
    """Adapter, backbone and projection come from its recipe; options replace them."""
    write_dataset("cirr", tmp_path / "cirr")
    done = rtd("evaluate", "--benchmark", "cirr", "--data", "cirr", "--weights", finished_run, "--json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["adapter"], result["projection"]) == ("lincir", str(files / "phi.pt"))
    done = rtd(
        "evaluate", "--benchmark", "cirr", "--data", "cirr", "--weights", finished_run, "--adapter", "searle", "--json"
    )
    assert done.stderr.startswith(f"{finished_run}: was tuned for lincir, and is used with searle.\n")
    assert json.loads(done.stdout)["adapter"] == "searle"


def test_submissions(evaluate, finished_run):
    """For a split with secret targets: a file for each text encoder, and no metrics."""
    result = evaluate("circo", "--split", "test", "--weights", finished_run)
    assert result["submissions"] == [
        "submissions/pre-trained/circo.json",
        f"submissions/{finished_run.name}/circo.json",
    ]
    assert all("metrics" not in row for row in result["results"])
    rankings = [json.loads((Path(result["output"]) / name).read_text()) for name in result["submissions"]]
    for ranking in rankings:
        assert list(ranking) == ["0", "1", "2", "3", "4"]
        assert all(
            len(set(images)) == 50 and all(isinstance(image, int) for image in images) for images in ranking.values()
        )
    assert rankings[0] != rankings[1]
    page = (Path(result["output"]) / "report.html").read_text()
    assert "kept secret" in page
    assert "<table" not in page


def test_a_submission_that_would_be_refused_is_not_written(evaluate, tmp_path):
    done = evaluate("cirr", "--split", "test1", "--output", "out", fails=True)
    assert done.exit_code == 1
    assert "the server of CIRR would refuse the submission: query 10 has 17 images and needs 50" in done.stderr
    assert not (tmp_path / "out").exists()


def test_tables_and_files_are_printed(rtd, setup, write_dataset, finished_run, tmp_path):
    write_dataset("cirr", tmp_path / "cirr")
    done = rtd("evaluate", *setup, "--benchmark", "cirr", "--data", "cirr", "--weights", finished_run)
    assert done.exit_code == 0, done.stderr
    assert "Encoding images 18/18" in done.stderr
    assert "cirr val has 6 queries and 18 images here, but 4181 queries and 2297 images as published" in done.stderr
    lines = done.stdout.splitlines()
    assert [line.rstrip() for line in lines if line.startswith("cirr: ")] == [
        "cirr: recall in percent",
        "cirr: subset recall in percent",
    ]
    assert sum("gain of tuning" in line for line in lines) == 2
    assert done.stdout.count("6 queries only: rough figures") == 1
    assert lines[-1] == "Wrote evaluations/cirr-val/report.html."
    assert all(len(line) <= 80 for line in lines)
    again = rtd("evaluate", *setup, "--benchmark", "cirr", "--data", "cirr", "--weights", finished_run)
    assert again.stdout.splitlines()[-1] == "Wrote evaluations/cirr-val-2/report.html."
    refused = rtd("evaluate", *setup, "--benchmark", "cirr", "--data", "cirr", "--output", "evaluations/cirr-val")
    assert refused.exit_code == 2
    assert "evaluations/cirr-val: already holds results: pass another --output" in refused.stderr


def test_the_miniature_needs_no_other_option(rtd, monkeypatch):
    benchmark = "rtd_plugin.miniature.benchmark.MiniatureBenchmark"
    from rtd_plugin.miniature.benchmark import MiniatureBenchmark as Whole

    queries = Whole().queries()[:6]
    gallery = sorted({name for query in queries for name in (*query.targets, *query.subset)})
    monkeypatch.setattr(f"{benchmark}.queries", lambda self: queries)
    monkeypatch.setattr(f"{benchmark}.gallery", lambda self: gallery)
    done = rtd("evaluate", "--adapter", "lincir", "--benchmark", "miniature", "--json")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert [row["query"] for row in result["baselines"]] == ["image only", "text only", "target caption"]
    assert result["split"] == "test"


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--benchmark", "flickr"], 2, "unknown benchmark 'flickr': installed are circo, cirr, fashioniq, folder,"),
        (["--benchmark", "cirr"], 2, "cirr needs --data"),
        (["--benchmark", "cirr", "--data", "nowhere"], 1, "cap.rc2.val.json is missing (val has 4181 queries, 2297"),
        (["--benchmark", "cirr", "--data", "x", "--split", "test"], 2, "--split: input should be 'val' or 'test1'"),
        (["--benchmark", "cirr", "--data", "x", "--set", "colour=red"], 2, "--set colour: cirr has no such option"),
        (
            ["--benchmark", "genecis", "--data", "x", "--set", "tasks=[a]"],
            2,
            "--set tasks: input should be",
        ),
        (
            ["--benchmark", "genecis", "--data", "x", "--set", "tasks=[change_object]"],
            1,
            "change_object.json is missing",
        ),
        (["--benchmark", "cirr", "--data", "x", "--set", "colour"], 2, "--set colour: expected key=value"),
        (["--benchmark", "miniature", "--adapter", "none"], 2, "unknown adapter 'none'"),
        (["--benchmark", "miniature", "--projection", "no.pt"], 1, "no.pt: no such file"),
        (["--benchmark", "miniature", "--weights", "no"], 1, "no: no such file or folder"),
        (["--benchmark", "miniature", "--device", "tpu9"], 2, "--device tpu9: torch cannot use it here"),
    ],
)
def test_wrong_options_are_refused(rtd, setup, options, code, says):
    done = rtd("evaluate", *setup, *options)
    assert done.exit_code == code
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_missing_options_are_named(rtd, files, write_dataset, tmp_path):
    write_dataset("folder", tmp_path / "x")
    for options, says in (
        ([], "no adapter is named: pass --adapter NAME"),
        (["--adapter", "lincir"], "no backbone is named: pass --model and --pretrained, or --checkpoint"),
        (["--adapter", "lincir", "--model", "ViT-B-32"], "no projection is named: pass --projection FILE"),
        (["--recipe", "none.yaml"], "none.yaml: no such recipe file"),
        (["--recipe", "lincir-vit-l-14"], "recipes/lincir.yaml: no projection: pass --projection FILE"),
    ):
        done = rtd("evaluate", "--benchmark", "folder", "--data", "x", *options)
        assert done.exit_code == 2
        assert says in done.stderr


def test_weights_of_another_clip_are_refused(evaluate, finished_run, files, randomise, tmp_path):
    import open_clip

    model = json.loads((files / "model.json").read_text())
    torch.save(randomise(open_clip.CLIP(**model), seed=1).state_dict(), tmp_path / "other.pt")
    done = evaluate("cirr", "--weights", finished_run, "--checkpoint", "other.pt", fails=True)
    assert done.exit_code == 1
    assert "was tuned from model, but the backbone given here has other weights" in done.stderr
    small = {**model, "text_cfg": {**model["text_cfg"], "layers": 1}}
    torch.save(randomise(open_clip.CLIP(**small)).state_dict(), tmp_path / "small.pt")
    done = evaluate("cirr", "--weights", "small.pt", fails=True)
    assert "small.pt: 1 layer of width" in done.stderr
    assert "; the backbone has 2 layers of width" in done.stderr


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda folder: (folder / "dev/dev-1-2-img0.png").unlink(), "cirr: the image dev-1-2-img0 cannot be read"),
        (lambda folder: (folder / "dev/dev-1-2-img0.png").write_bytes(b"x"), "cirr: the image dev-1-2-img0 cannot be"),
        (
            lambda folder: without(folder, "dev-1-2-img0"),
            "cirr: dev-1-2-img0, a query's target or candidate, is not in",
        ),
        (lambda folder: without(folder, "dev-1-1-img0"), "cirr: dev-1-1-img0, a query's target or candidate, is not"),
    ],
)
def test_an_incomplete_benchmark_is_refused(evaluate, write_dataset, tmp_path, change, says):
    """Nothing is written."""
    write_dataset("cirr", tmp_path / "cirr")
    change(tmp_path / "cirr")
    done = evaluate("cirr", "--output", "out", fails=True)
    assert done.exit_code == 1
    assert says in done.stderr
    assert "they are from https" in done.stderr or "check the benchmark's files" in done.stderr
    assert not (tmp_path / "out").exists()


def break_images(folder):
    """Break three images of FashionIQ, as in real copies: a target, a reference, and one only in the gallery."""
    (folder / "images/B009.jpg").unlink()
    (folder / "images/B009.jpg").symlink_to("/nowhere/B009.jpg")
    (folder / "images/B101.jpg").write_bytes(b"")
    (folder / "images/B020.jpg").write_bytes((folder / "images/B020.jpg").read_bytes()[:200])


def test_an_incomplete_published_benchmark_has_another_name(evaluate, rtd, setup, write_dataset, tmp_path):
    """Only with --skip-unreadable; queries whose reference or target is missing are left out and reported."""
    write_dataset("fashioniq", tmp_path / "fashioniq")
    break_images(tmp_path / "fashioniq")
    refused = evaluate("fashioniq", fails=True)
    assert refused.exit_code == 1
    assert "fashioniq: the image B009 cannot be read" in refused.stderr
    done = rtd("evaluate", *setup, "--benchmark", "fashioniq", "--data", "fashioniq", "--skip-unreadable", "--json")
    result = json.loads(done.stdout)
    said = "fashioniq-incomplete: 3 of 90 images cannot be read and are left out, with 2 of 18 queries: B009, "
    assert said in done.stderr
    assert any(said in remark for remark in result["remarks"])
    assert sorted(result["unreadable"]) == ["B009", "B020", "B101"]
    assert (result["benchmark"], result["queries"], result["gallery"]) == ("fashioniq-incomplete", 16, 87)
    assert list(result["results"][0]["metrics"]) == ["fashioniq-incomplete"]
    assert Path(result["output"]).name == "fashioniq-incomplete-val"
    report = (Path(result["output"]) / "report.html").read_text()
    assert "<h1>fashioniq-incomplete val</h1>" in report
    assert said in report


def test_ranks_without_unreadable_images_equal_those_of_a_smaller_folder(evaluate, tmp_path):
    """In a user's folder they are left out unless switched off, here an image of no query and a further target."""
    whole = evaluate("folder")
    (tmp_path / "folder/5.png").unlink()
    (tmp_path / "folder/more/1.jpg").unlink()
    file = tmp_path / "folder/queries.csv"
    queries = file.read_text()
    file.write_text(queries.replace(";more/1.jpg", ""))
    smaller = evaluate("folder")
    assert smaller["unreadable"] == {}
    file.write_text(queries)
    (tmp_path / "folder/5.png").write_bytes(b"")
    (tmp_path / "folder/more/1.jpg").symlink_to("gone.jpg")
    result = evaluate("folder")
    assert list(result["unreadable"]) == ["more/1.jpg", "5.png"]
    assert (result["benchmark"], result["queries"], result["gallery"]) == ("folder", 2, 10)
    assert result["results"][0]["metrics"] == smaller["results"][0]["metrics"] != whole["results"][0]["metrics"]
    assert "cannot be read" in evaluate("folder", "--no-skip-unreadable", fails=True).stderr


def test_nothing_is_left_out_of_a_submission(evaluate, write_dataset, tmp_path):
    write_dataset("circo", tmp_path / "circo")
    (tmp_path / "circo/COCO2017_unlabeled/unlabeled2017/000000000105.jpg").unlink()
    done = evaluate("circo", "--split", "test", "--skip-unreadable", fails=True)
    assert done.exit_code == 1
    assert "circo: its server needs rankings of all images, and some cannot be read" in done.stderr
    assert not (tmp_path / "evaluations").exists()


def test_texts_and_names_that_are_not_utf_8(evaluate, write_dataset, tmp_path):
    """A text is refused before any work; the name of a file is written with an escape."""
    write_dataset("folder", tmp_path / "folder")
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / "folder/5.png").rename(tmp_path / "folder" / name)
    (tmp_path / "folder" / os.fsdecode(b"br\xfcken.png")).touch()
    result = evaluate("folder")
    assert json.loads((Path(result["output"]) / "results.json").read_text()) == result
    assert list(result["unreadable"]) == [os.fsdecode(b"br\xfcken.png")]
    assert "caf\\udce9.png" in (Path(result["output"]) / "report.html").read_text()


def without(folder, name):
    file = folder / "cirr/image_splits/split.rc2.val.json"
    names = json.loads(file.read_text())
    del names[name]
    file.write_text(json.dumps(names))


def test_a_cache_of_another_backbone_is_not_used(evaluate, files, randomise, tmp_path):
    import open_clip

    model = json.loads((files / "model.json").read_text())
    torch.save(randomise(open_clip.CLIP(**model), seed=1).state_dict(), tmp_path / "other.pt")
    clean = evaluate("cirr", "--checkpoint", "other.pt", "--cache", "elsewhere")
    evaluate("cirr")
    mixed = evaluate("cirr", "--checkpoint", "other.pt")
    assert mixed["results"][0]["metrics"] == clean["results"][0]["metrics"]
    assert len(list((tmp_path / "cache/images").iterdir())) == 2


def test_only_the_first_process_prints_and_writes(evaluate, rtd, setup, write_dataset, tmp_path, monkeypatch):
    """The other processes of torchrun only encode images."""
    write_dataset("cirr", tmp_path / "cirr")
    monkeypatch.setenv("RANK", "1")
    done = evaluate("cirr", fails=True)
    assert (done.exit_code, done.output) == (0, "")
    assert not (tmp_path / "evaluations").exists()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr("rtd_plugin.evaluation.image_features.ImageFeatures.encode_pixels", None)
    assert evaluate("cirr")["gallery"] == 18


def test_the_seed_chooses_the_queries(evaluate, monkeypatch):
    monkeypatch.setattr("rtd_plugin.evaluation.report.QUERIES", 2)
    pages = [read_report(evaluate("cirr", "--seed", seed)["output"]) for seed in (0, 0, *range(1, 5))]
    assert pages[0] == pages[1]
    assert len(set(pages)) > 1


def test_tables_of_wordings_and_wrong_answers(rtd, setup, write_dataset, tmp_path):
    write_dataset("pinpoint", tmp_path / "pinpoint")
    done = rtd("evaluate", *setup, "--benchmark", "pinpoint", "--data", "pinpoint", "--cache", "cache")
    assert done.exit_code == 0, done.stderr
    titles = [line.strip() for line in done.stdout.splitlines() if line.startswith("pinpoint: ")]
    assert titles == [
        "pinpoint: recall in percent",
        "pinpoint: mAP in percent",
        "pinpoint: wrong answers in percent",
        "pinpoint: spread over wordings in percent",
    ]
    assert "1 query of two images left out" in done.stderr

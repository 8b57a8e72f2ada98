"""`rtd-plugin serve`: what it serves, and how it starts and ends."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from rtd_plugin.cli.main import main
from rtd_plugin.serving.app import make_app
from rtd_plugin.serving.service import Limits
from rtd_plugin.workflows import serve as workflow
from rtd_plugin.workflows.index import build_index
from rtd_plugin.workflows.loading import load_models
from rtd_plugin.workflows.serve import build_miniature_service, build_service

ROOT = Path(__file__).parents[2]


@pytest.fixture
def start(tmp_path):
    """Starts the command in a process with a folder of its own; returns it and the first line that it prints."""
    started = []

    def start(*args):
        environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary"), "RTD_PLUGIN_CACHE": str(tmp_path / "cache")}
        (tmp_path / "temporary").mkdir(exist_ok=True)
        command = [sys.executable, "-W", "error", "-m", "rtd_plugin", "serve", "--port", "0", *map(str, args)]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process, process.stdout.readline()

    yield start
    for process in started:
        process.kill()
        process.communicate()


def get(line, path):
    address = re.search(r"http://[\w.]+:\d+", line)[0]
    with urllib.request.urlopen(address + path) as answer:
        return answer.read()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_server_that_ends_leaves_nothing_behind(start, run, catalogue, tmp_path, number):
    process, line = start("--images", catalogue, "--weights", run)
    assert re.fullmatch(r"Serving 8 images on http://localhost:\d+ \(Ctrl-C stops it\)\.\n", line)
    assert json.loads(get(line, "/healthz")) == {"status": "ok"}
    before = set(catalogue.rglob("*"))
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (0 if number == signal.SIGINT else -signal.SIGKILL)
    assert errors == "Encoding images 8/8\n"
    assert list((tmp_path / "temporary").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "temporary"]
    assert set(catalogue.rglob("*")) == before
    port = int(re.search(r":(\d+)", line.replace("http:", ""))[1])
    with socket.create_server(("localhost", port)):  # which is free again
        pass


@pytest.mark.slow
def test_without_options_it_shows_the_miniature(start):
    _, line = start()
    assert line.startswith("Serving 3,670 images on ")
    info = json.loads(get(line, "/info"))
    assert info["gallery"] == "miniature"
    assert [encoder["name"] for encoder in info["encoders"]] == ["pre-trained"]
    assert "run `rtd-plugin train --adapter lincir`" in info["remarks"][0]
    assert all(start["text"] for start in info["starts"])
    assert get(line, f"/thumbnails/{info['starts'][0]['image']}").startswith(b"\x89PNG")


def test_the_miniature_is_shown_with_its_newest_run(run, tmp_path, monkeypatch):
    """Also of another method; an unfinished run is left out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workflow, "MemoryGallery", FakeGallery)
    shutil.copytree(run, tmp_path / "runs" / "lincir-miniature")
    service = build_miniature_service(device="cpu")
    assert [(each.name, each.is_tuned) for each in service.encoders] == [
        ("pre-trained", False),
        ("lincir-miniature", True),
    ]
    assert service.remarks == []
    (tmp_path / "runs/lincir-miniature/text_encoder.safetensors").unlink()
    service = build_miniature_service(device="cpu")
    assert len(service.encoders) == 1
    service = build_miniature_service(device="cpu", adapter="searle")
    assert service.method == "searle on rtd-miniature"
    assert "train --adapter searle" in service.remarks[0]


class FakeGallery:
    title = "miniature"

    def __init__(self, *args):
        pass

    def __len__(self):
        return 3

    def remarks(self):
        return []

    def sample_names(self, count):
        return []


def test_an_index_is_served_with_its_columns(run, catalogue, tmp_path):
    pytest.importorskip("lancedb")
    prices, output = tmp_path / "prices.csv", tmp_path / "gallery.lance"
    prices.write_text("image,price\nred.png,10\nblue.png,60\n")
    build_index(catalogue, output, weights=[run], columns=prices)
    models = load_models(weights=[run], device="cpu")
    gallery = workflow.choose_gallery(None, output, ())(models, None)
    service = build_service(models, gallery)
    assert (service.size, list(gallery.columns)) == (8, ["price"])
    assert "red.png" in gallery
    assert "nowhere.png" not in gallery
    assert "it's.png" not in gallery
    with TestClient(make_app(service, Limits()), "http://localhost") as client:
        query = {"text": "is blue", "name": "more & more/white.png"}
        assert client.get("/info").json()["columns"] == ["price"]
        cheap = client.post("/search", data={**query, "where": "price < 50"}).json()["results"]
        assert [[(each["image"], each["columns"]) for each in found["images"]] for found in cheap] == [
            [("red.png", {"price": 10})]
        ] * 2
        wrong = client.post("/search", data={**query, "where": "colour = 3"})
        assert wrong.status_code == 400
        assert "where: 'colour = 3' is not a condition on image, price in SQL" in wrong.json()["error"]
        assert client.post("/search", data=query).status_code == 200
    assert [start.image for start in service.starts] == sorted(
        path.relative_to(catalogue).as_posix() for path in catalogue.rglob("*.png")
    )


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--images", "nowhere"], "nowhere: no such folder of images"),
        (["--images", ".", "--index", "a.lance"], "a folder and an index"),
        (["--host", "203.0.113.9"], "203.0.113.9:8000: cannot be listened on"),
        (["--megapixels", "100"], "100.0 is not in the range"),
    ],
)
def test_wrong_options_are_named_before_models_are_loaded(tmp_path, monkeypatch, args, says):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workflow, "load_models", None)
    done = CliRunner().invoke(main, ["serve", *args])
    assert done.exit_code in (1, 2)
    assert says in done.stderr


def test_a_taken_port_is_named(monkeypatch):
    monkeypatch.setattr(workflow, "load_models", None)
    with socket.create_server(("localhost", 0)) as taken:
        port = taken.getsockname()[1]
        done = CliRunner().invoke(main, ["serve", "--host", "127.0.0.1", "--port", str(port)])
    assert done.exit_code == 1
    assert f"127.0.0.1:{port}: cannot be listened on (Address already in use): pass another --port" in done.stderr


def test_another_backbone_needs_a_gallery(monkeypatch):
    class Models:
        class backbone:
            name = "ViT-L-14 (openai)"

    monkeypatch.setattr(workflow, "load_models", lambda **options: Models)
    done = CliRunner().invoke(main, ["serve", "--weights", "runs/mine", "--port", "0"])
    assert done.exit_code == 2
    assert "nothing to search: pass --images or --index" in done.stderr


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "rtd_plugin.serving.server", raising=False)
    done = CliRunner().invoke(main, ["serve", "--port", "0"])
    assert done.exit_code == 1
    assert "the service needs uvicorn: install it with `pip install 'rtd-plugin[serve]'`" in done.stderr


@pytest.mark.slow
def test_many_clients_are_answered_without_an_error():
    """The short form of the benchmark: batches form, and nothing fails."""
    command = [sys.executable, ROOT / "tests/benchmarks/serving.py", "--clients", "20", "--requests", "200"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "20 clients, 200 queries" in done.stdout
    assert ", 0 failed" in done.stdout
    assert float(re.search(r"([\d.]+) queries a batch", done.stdout)[1]) > 1
    assert "the server ended with 0" in done.stdout

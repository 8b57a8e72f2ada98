"""A catalogue of images, and the service on it and a run."""

from pathlib import Path

import pytest
from image_files import make_image_file
from PIL import Image
from starlette.testclient import TestClient

from rtd_plugin.progress import no_progress
from rtd_plugin.serving.app import make_app
from rtd_plugin.serving.service import Limits
from rtd_plugin.workflows.loading import load_models
from rtd_plugin.workflows.search import choose_gallery
from rtd_plugin.workflows.serve import build_service

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "black", "white")


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory):
    """A folder of eight images with a subfolder, and a file beside it that is no image of it."""
    folder = tmp_path_factory.mktemp("shop") / "catalogue"
    (folder / "more & more").mkdir(parents=True)
    for index, colour in enumerate(COLOURS):
        place = folder / "more & more" if index % 2 else folder
        Image.new("RGB", (200 + 20 * index, 180), colour).save(place / f"{colour}.png")
    Image.new("RGB", (60, 60), "pink").save(folder.parent / "secret.png")
    return folder


@pytest.fixture(scope="session")
def service(run, catalogue, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    models = load_models(weights=[run], device="cpu", cache=cache)
    return build_service(models, choose_gallery(catalogue, None, ())(models, no_progress))


@pytest.fixture
def connect(service):
    """Returns a client of the service under given limits."""
    clients = []

    def connect(limits=None, base_url="http://localhost", **options):
        app = make_app(service, limits or Limits(), **options)
        client = TestClient(app, base_url, raise_server_exceptions=False)
        client.__enter__()
        clients.append(client)
        return client

    yield connect
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(connect):
    return connect()


@pytest.fixture(scope="session")
def picture() -> bytes:
    return make_image_file()


@pytest.fixture(scope="session")
def own_picture(tmp_path_factory) -> Path:
    """A file of an image that is not in the gallery."""
    path = tmp_path_factory.mktemp("own") / "mine.jpg"
    Image.new("RGB", (320, 240), "teal").save(path)
    return path

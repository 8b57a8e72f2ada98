"""The service's HTTP interface: what it answers, and what it refuses."""

import io
import tempfile
import threading

import pytest
import torch
from image_files import make_image_file
from PIL import Image

import rtd_plugin
from rtd_plugin.errors import RTDError
from rtd_plugin.serving.batching import BATCH, Batcher
from rtd_plugin.serving.guards import FIELDS
from rtd_plugin.serving.service import Limits


def test_search_gives_what_python_gives(client, run, catalogue, picture):
    """For an image that is sent and for one of the gallery, frozen and tuned."""
    searcher = rtd_plugin.load(run, images=catalogue, device="cpu")
    sent = client.post("/search", data={"text": "is blue", "k": 3}, files={"image": picture})
    named = client.post("/search", data={"text": "is blue", "k": 50, "name": "red.png"})
    assert (sent.status_code, named.status_code) == (200, 200)
    for answer, image, k in (
        (sent, Image.open(io.BytesIO(picture)), 3),
        (named, catalogue / "red.png", 50),
    ):
        frozen, tuned = answer.json()["results"]
        assert (frozen["name"], tuned["name"]) == ("pre-trained", "mine")
        for found, encoder in ((frozen, searcher.frozen), (tuned, searcher)):
            expected = encoder.search(image, "is blue", k=k)
            assert [each["image"] for each in found["images"]] == [match.image for match in expected]
            scores = [each["score"] for each in found["images"]]
            assert scores == pytest.approx([match.score for match in expected], abs=1e-5)
    names = [each["image"] for each in named.json()["results"][0]["images"]]
    assert len(names) == 7
    assert "red.png" not in names


def test_compose_gives_normalised_features(client, run, catalogue, picture):
    searcher = rtd_plugin.load(run, device="cpu")
    answer = client.post("/compose", data={"text": "is blue", "name": "more & more/green.png"}).json()["features"]
    assert [each["name"] for each in answer] == ["pre-trained", "mine"]
    for each, encoder in zip(answer, (searcher.frozen, searcher), strict=True):
        expected = encoder.compose(catalogue / "more & more" / "green.png", "is blue")
        torch.testing.assert_close(torch.tensor(each["feature"]), expected, atol=1e-5, rtol=0)


def test_concurrent_queries_are_answered_as_single_ones(client, picture):
    single = client.post("/search", data={"text": "is blue"}, files={"image": picture}).json()
    answers = [None] * 24

    def ask(index):
        text = "is blue" if index % 2 else "is green"
        answers[index] = client.post("/search", data={"text": text}, files={"image": picture}).json()

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(answers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for answer in answers[1::2]:
        for found, expected in zip(answer["results"], single["results"], strict=True):
            assert [each["image"] for each in found["images"]] == [each["image"] for each in expected["images"]]


@pytest.mark.parametrize(
    ("data", "status", "says"),
    [
        ({"name": "red.png"}, 422, "text: "),
        ({"text": "", "name": "red.png"}, 422, "text: "),
        ({"text": "x" * 3000, "name": "red.png"}, 422, "text: "),
        ({"text": "is blue", "name": "red.png", "k": "51"}, 422, "k: "),
        ({"text": "is blue"}, 400, "pass an image as `image`, or the name of an image of the gallery as `name`"),
        ({"text": "is blue", "name": "nowhere.png"}, 404, "nowhere.png: no image of this gallery"),
        ({"text": "is blue", "name": "../secret.png"}, 404, "no image of this gallery"),
        ({"text": "is blue", "name": "red.png", "where": "price < 5"}, 400, "a folder has no columns"),
    ],
)
def test_a_wrong_query_is_answered_with_a_sentence(client, data, status, says):
    answer = client.post("/search", data=data)
    assert answer.status_code == status
    assert says in answer.json()["error"]


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 400, "not an image in one of the formats JPEG, PNG"),
        (b"", 400, "not an image"),
        (make_image_file()[:200], 400, "the image: "),
        (make_image_file((300, 300)), 413, "300 x 300 are more than 50,000 pixels"),
        (make_image_file((600, 1)), 413, "one side is more than 500 times the other"),
        (make_image_file() + bytes(100_000 + FIELDS), 413, "more than 0.1 MB"),
    ],
)
def test_a_bad_picture_is_refused_with_a_sentence(connect, content, status, says):
    client = connect(Limits(bytes=100_000, pixels=50_000))
    answer = client.post("/search", data={"text": "is blue"}, files={"image": content})
    assert answer.status_code == status
    assert says in answer.json()["error"]


def test_a_picture_that_cannot_be_stored_is_the_servers_fault(client, tmp_path, monkeypatch):
    """Pictures of more than a megabyte are temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "removed"))
    answer = client.post("/search", data={"text": "is blue"}, files={"image": make_image_file((700, 700), "bmp")})
    assert answer.status_code == 507
    assert answer.json()["error"].startswith("The image cannot be stored (No such file or directory)")


def test_a_body_without_a_length_is_limited_as_well(connect):
    client = connect(Limits(bytes=100_000))
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'

    def send():
        yield head
        for _ in range(1000):
            yield bytes(10_000)

    answer = client.post("/search", content=send(), headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert answer.status_code == 413
    assert "more than 0.1 MB" in answer.json()["error"]


@pytest.fixture
def blocked(service, monkeypatch):
    """Queries are held until the event is set."""
    release, arrived = threading.Event(), threading.Event()
    answer = service.answer

    def hold(queries):
        arrived.set()
        release.wait(60)
        return answer(queries)

    monkeypatch.setattr(service, "answer", hold)
    yield release, arrived
    release.set()


def test_a_query_that_takes_too_long_is_given_up(blocked, connect):
    client = connect(Limits(seconds=0.5))
    answer = client.post("/search", data={"text": "is blue", "name": "red.png"})
    assert answer.status_code == 503
    assert answer.json() == {"error": "This took more than 0.5 seconds: try again later."}
    blocked[0].set()
    assert client.get("/healthz").json() == {"status": "ok"}


def test_more_queries_than_may_wait_are_refused(blocked, connect):
    release, arrived = blocked
    client = connect(Limits(waiting=1))
    answers = []
    query = {"text": "is blue", "name": "red.png"}
    thread = threading.Thread(target=lambda: answers.append(client.post("/search", data=query)))
    thread.start()
    arrived.wait(60)
    refused = client.post("/search", data=query)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
    assert refused.json() == {"error": "1 queries wait already: try again in a second."}
    assert client.get("/thumbnails/red.png").status_code == 200
    release.set()
    thread.join()
    assert answers[0].status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", "", "[::1"])
def test_other_host_names_are_refused(client, host):
    answer = client.get("/", headers={"Host": host})
    assert answer.status_code == 421
    assert "start it with --allow-host" in answer.json()["error"]


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "192.168.0.7", "shop"])
def test_this_machines_names_are_answered(connect, host):
    assert connect(hosts=["shop"]).get("/healthz", headers={"Host": host}).status_code == 200


def test_pages_of_other_sites_may_not_ask(connect):
    query = {"text": "is blue", "name": "red.png"}
    client = connect()
    for origin, status in (("https://evil.example", 403), ("null", 403), ("http://localhost", 200)):
        answer = client.post("/search", data=query, headers={"Origin": origin})
        assert answer.status_code == status
        assert "Access-Control-Allow-Origin" not in answer.headers
    allowed = connect(origins=["https://shop.example"])
    answer = allowed.post("/search", data=query, headers={"Origin": "https://shop.example"})
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (200, "https://shop.example")
    assert allowed.post("/search", data=query, headers={"Origin": "https://evil.example"}).status_code == 403


def test_images_of_the_gallery_are_shown_as_new_files(client):
    """A large one smaller; its metadata stays where it is."""
    for route, size in (("images", (220, 180)), ("thumbnails", (220, 180))):
        answer = client.get(f"/{route}/more%20%26%20more/green.png")
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/jpeg")
        assert Image.open(io.BytesIO(answer.content)).size == size
    assert max(Image.open(io.BytesIO(client.get("/thumbnails/more%20%26%20more/white.png").content)).size) == 320


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "..%2fsecret.png",
        "%2e%2e/secret.png",
        "%2Fetc%2Fpasswd",
        "more%20%26%20more/../../secret.png",
        "",
    ],
)
@pytest.mark.parametrize("route", ["images", "thumbnails"])
def test_no_other_file_is_shown(client, route, name):
    answer = client.get(f"/{route}/{name}")
    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/json"


def test_a_link_that_replaced_an_image_is_not_followed_out_of_the_folder(client, catalogue):
    image = catalogue / "blue.png"
    content = image.read_bytes()
    image.unlink()
    image.symlink_to(catalogue.parent / "secret.png")
    try:
        answer = client.get("/images/blue.png")
    finally:
        image.unlink()
        image.write_bytes(content)
    assert answer.status_code == 400
    assert "leads out of" in answer.json()["error"]


def test_every_answer_forbids_other_sources(client):
    for path in ("/", "/page.js", "/page.css", "/docs", "/info", "/nowhere", "/images/nowhere.png"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_health_and_counters(client, picture):
    assert client.get("/healthz").json() == {"status": "ok"}
    client.post("/search", data={"text": "is blue"}, files={"image": picture})
    client.get("/nowhere")
    answer = client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    assert 'rtd_requests_total{path="/search",status="200"} 1.0' in lines
    assert 'rtd_requests_total{path="other",status="404"} 1.0' in lines
    assert "rtd_batch_queries_count 1.0" in lines
    assert "rtd_active_queries 0.0" in lines
    assert "rtd_gallery_images 8.0" in lines


def test_the_interface_is_described(client):
    schema = client.get("/openapi.json").json()
    assert {"/search", "/compose", "/healthz", "/metrics", "/images/{name}"} <= schema["paths"].keys()
    page = client.get("/docs").text
    assert "<code>POST /search</code>" in page
    assert "What should be different" in page or "what should be different" in page
    assert "http" not in page.replace("http://localhost", "")  # it loads nothing from a network


def test_info_describes_the_gallery(client, catalogue):
    info = client.get("/info").json()
    assert (info["gallery"], info["images"], info["columns"]) == (str(catalogue), 8, [])
    assert info["encoders"] == [{"name": "pre-trained", "tuned": False}, {"name": "mine", "tuned": True}]
    assert {start["image"] for start in info["starts"]} >= {"red.png", "more & more/green.png"}


def test_queries_that_wait_are_answered_together():
    sizes, release, arrived = [], threading.Event(), threading.Event()

    def double(queries):
        arrived.set()
        release.wait(60)
        return [2 * query for query in queries]

    batcher = Batcher(double, sizes.append)
    first = batcher.submit(1)
    arrived.wait(60)
    others = [batcher.submit(query) for query in range(BATCH + 5)]
    assert others[0].cancel()
    release.set()
    assert first.result() == 2
    assert [future.result() for future in others[1:]] == [2 * query for query in range(1, BATCH + 5)]
    batcher.close()
    assert sizes == [1, BATCH - 1, 5]
    assert not batcher.is_alive


def test_a_query_that_fails_fails_alone():
    def divide(queries):
        return [RTDError("seven") if query == 7 else 10 // query for query in queries]

    batcher = Batcher(divide, lambda size: None)
    futures = [batcher.submit(query) for query in (5, 0, 7, 2)]
    assert futures[0].result() == 2
    assert isinstance(futures[1].exception(), ZeroDivisionError)
    assert isinstance(futures[2].exception(), RTDError)
    assert futures[3].result() == 5
    batcher.close()

"""Triplets by a language model, from a test server that answers, lags, fails and returns rubbish."""

import errno
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from rtd_plugin import printable
from rtd_plugin.cli.main import main
from rtd_plugin.errors import RTDError, UsageError
from rtd_plugin.generation.llm import asking as module
from rtd_plugin.generation.llm.answers import AnswerFile
from rtd_plugin.generation.llm.build import build
from rtd_plugin.generation.llm.prompt import EXAMPLES, parse_answer
from rtd_plugin.generation.llm.server import Server
from rtd_plugin.generation.workflows import build_triplets
from rtd_plugin.triplets.sources import JsonTriplets

CAPTIONS = [f"a dog, number {number}, on grass" for number in range(12)]


def good(caption: str, count: int = 2) -> str:
    return json.dumps(
        [
            {"condition": f"make it {animal}", "target": caption.replace("dog", animal)}
            for animal in ("a cat", "a cow")[:count]
        ]
    )


class Model(ThreadingHTTPServer):
    """A server whose answers a test chooses: `reply(caption, request number)` gives text, or (status, headers, body).

    A reply of None breaks the connection; a function is called with the handler.
    """

    daemon_threads = True

    def __init__(self, reply: Callable) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply, self.requests, self.lock = reply, [], threading.Lock()

    def handle_error(self, *args: object) -> None:
        """Ignore clients that closed the connection."""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        caption = body["messages"][-1]["content"].partition("\n")[0].removeprefix("Caption: ")
        with self.server.lock:
            self.server.requests.append((self.path, caption, dict(self.headers), body))
            number = len(self.server.requests)
        reply = self.server.reply(caption, number)
        if reply is None:
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if callable(reply):
            reply(self)
            return
        if isinstance(reply, str):
            reply = (200, {}, json.dumps({"choices": [{"message": {"role": "assistant", "content": reply}}]}).encode())
        status, headers, content = reply
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Print nothing."""


@pytest.fixture
def serve(monkeypatch) -> Iterator[Callable[..., Model]]:
    for name in printable.KEY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    running = []

    def serve(reply: Callable = lambda caption, number: good(caption)) -> Model:
        model = Model(reply)
        threading.Thread(target=model.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        running.append(model)
        return model

    yield serve
    for model in running:
        model.shutdown()
        model.server_close()


@pytest.fixture
def captions(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("".join(f"{caption}\n" for caption in CAPTIONS))
    return path


def server(model: Model, **settings) -> Server:
    return Server(model.endpoint, "tiny", **{"pause": 0.01, "timeout": 5.0, **settings})


def read_conditions(path) -> dict[str, list[str]]:
    conditions: dict[str, list[str]] = {}
    for triplet in JsonTriplets(path=path).load().triplets:
        conditions.setdefault(triplet.reference, []).append(triplet.condition)
    return conditions


WHOLE = {caption: ["make it a cat", "make it a cow"] for caption in CAPTIONS}


def test_answers_become_triplets(serve, captions, tmp_path):
    model = serve()
    sent = build(captions, tmp_path / "t.jsonl", server(model), limit=100)
    assert (sent.captions, sent.done, sent.requests, sent.triplets, sent.left) == (12, 12, 12, 24, 0)
    assert read_conditions(tmp_path / "t.jsonl") == WHOLE
    path, _, headers, body = model.requests[0]
    assert path == "/v1/chat/completions"
    assert "Authorization" not in headers
    assert body["model"] == "tiny"
    assert [message["role"] for message in body["messages"]] == ["system", *["user", "assistant"] * 3, "user"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["captions.txt", "t.jsonl"]


def test_python_builds_what_the_command_does(serve, captions, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = serve()
    options = ["--endpoint", model.endpoint, "--model", "tiny", "--limit", "100", "--json"]
    done = CliRunner().invoke(main, ["triplets", "build", "llm", "captions.txt", "--output", "command.jsonl", *options])
    result = build_triplets("captions.txt", "python.jsonl", "llm", endpoint=model.endpoint, model="tiny", limit=100)
    assert result == {**json.loads(done.stdout), "output": "python.jsonl"}
    assert (tmp_path / "python.jsonl").read_bytes() == (tmp_path / "command.jsonl").read_bytes()


def test_the_prompt_s_examples_are_answers_that_parse():
    for caption, answers in EXAMPLES:
        answer = json.dumps([{"condition": condition, "target": target} for condition, target in answers])
        assert len(parse_answer(caption, answer, 9)[0]) == len(answers)


@pytest.mark.parametrize("variable", printable.KEY_VARIABLES)
def test_a_key_comes_from_the_environment(serve, captions, tmp_path, monkeypatch, variable):
    model = serve()
    monkeypatch.setenv(variable, "secret")
    build(captions, tmp_path / "t.jsonl", server(model), limit=100)
    assert {headers["Authorization"] for _, _, headers, _ in model.requests} == {"Bearer secret"}
    assert "secret" not in (tmp_path / "t.jsonl").read_text()


@pytest.mark.parametrize(
    "fault",
    [
        (429, {}, b"slow down"),
        (429, {"Retry-After": "0.01"}, b""),
        (500, {}, b"<html>oops"),
        (503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, b""),
        (200, {}, b"no json"),
        (200, {}, b"[" * 100_000),
        (200, {}, b'{"choices": []}'),
        (200, {}, b'{"choices": [{"message": {"content": null}}]}'),
        (200, {"Content-Length": "999"}, b"cut off"),
        None,
    ],
)
def test_requests_that_fail_for_a_while_are_sent_again(serve, captions, tmp_path, fault):
    model = serve(lambda caption, number: fault if number % 2 else good(caption))
    sent = build(captions, tmp_path / "t.jsonl", server(model), limit=200, workers=1)
    assert read_conditions(tmp_path / "t.jsonl") == WHOLE
    assert sent.requests == 24


def test_a_slow_request_is_sent_again(serve, captions, tmp_path):
    """The first request is answered only once the client has given up and asked again."""
    lagging, asked_again = [], threading.Event()

    def reply(caption, number):
        if number == 1:
            lagging.append(caption)
            asked_again.wait()
        elif caption in lagging:
            asked_again.set()
        return good(caption)

    model = serve(reply)
    sent = build(captions, tmp_path / "t.jsonl", server(model, timeout=0.3, attempts=1000), limit=100)
    assert read_conditions(tmp_path / "t.jsonl") == WHOLE
    assert sent.requests >= 13


def send(handler, content):
    handler.wfile.write(content)
    handler.wfile.flush()


def stall(handler):
    """Wait until the client gives up."""
    handler.connection.recv(1)


def drip(handler):
    """Send a byte now and then until the client gives up."""
    with suppress(OSError):
        while True:
            send(handler, b"x")
            time.sleep(0.02)


def reset(handler):
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def break_off(handler):
    handler.connection.shutdown(socket.SHUT_RDWR)


LENGTH, CHUNKED, NONE = b"Content-Length: 99\r\n\r\nsorry", b"Transfer-Encoding: chunked\r\n\r\n", b"\r\n"
WAITING = {  # what comes after the status line, and then
    "a stalled body": (LENGTH, stall),
    "a stalled chunk": (CHUNKED + b"9\r\nsorry", stall),
    "a dripping body": (LENGTH.replace(b"99", b"999999"), drip),
    "a dripping body without a length": (NONE, drip),
    "a dripping header": (b"X-Reason: ", drip),
    "stalled headers": (b"X-Reason", stall),
}
BROKEN = {
    "a body reset": (LENGTH, reset),
    "a chunk reset": (CHUNKED + b"9\r\nsorry", reset),
    "headers reset": (b"X-Reason", reset),
    "a body cut off": (LENGTH, break_off),
    "no size of a chunk": (CHUNKED + b"zz\r\nsorry\r\n0\r\n\r\n", break_off),
    "a negative size of a chunk": (CHUNKED + b"-5\r\nsorry\r\n0\r\n\r\n", break_off),
    "chunks cut off": (CHUNKED + b"5\r\nsorry\r\n", break_off),
    "an endless size of a chunk": (CHUNKED + b"9" * 70_000, break_off),
}


def make_fault(status, after, end):
    def fault(handler):
        with suppress(OSError):
            send(handler, b"HTTP/1.1 %d What\r\n" % status + after)
            end(handler)
        handler.close_connection = True

    return fault


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("case", WAITING)
def test_a_server_that_never_ends_its_answer_is_asked_again(serve, captions, tmp_path, status, case):
    """A socket's timeout restarts with every byte: the limit is on the whole answer."""
    fault = make_fault(status, *WAITING[case])
    model = serve(lambda caption, number: fault if number <= 2 else good(caption))
    sent = build(captions, tmp_path / "t.jsonl", server(model, timeout=0.5, attempts=1000), limit=5000, workers=2)
    assert read_conditions(tmp_path / "t.jsonl") == WHOLE
    assert sent.requests >= 14


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("case", BROKEN)
def test_a_server_that_breaks_its_answer_off_is_asked_again(serve, captions, tmp_path, status, case):
    fault = make_fault(status, *BROKEN[case])
    model = serve(lambda caption, number: fault if number % 2 else good(caption))
    sent = build(captions, tmp_path / "t.jsonl", server(model, timeout=60), limit=200, workers=1)
    assert read_conditions(tmp_path / "t.jsonl") == WHOLE
    assert (sent.requests, sent.rubbish) == (24, 0)


def test_answers_are_kept_when_error_bodies_stay_broken(serve, captions, tmp_path):
    fault = make_fault(400, *BROKEN["a body reset"])
    model = serve(lambda caption, number: good(caption) if number <= 5 else fault)
    with pytest.raises(RTDError, match=r"failed 3 times in a row: HTTP 400, and its body .*answered so far: 5, kept"):
        build(captions, tmp_path / "t.jsonl", server(model, attempts=3), limit=100, workers=1)
    assert build(captions, tmp_path / "t.jsonl", server(serve()), limit=100).requests == 7


@pytest.mark.parametrize("key", ["schl\u00fcssel\u20ac", "two\nlines of a key"])
def test_a_key_that_no_header_takes_is_an_error(serve, captions, tmp_path, monkeypatch, key):
    monkeypatch.setenv("RTD_PLUGIN_API_KEY", key)
    model = serve()
    with pytest.raises(RTDError, match=r"request failed .*: correct address or key") as error:
        build(captions, tmp_path / "t.jsonl", server(model), limit=100, workers=1)
    assert key not in str(error.value)
    assert model.requests == []


@pytest.mark.parametrize(
    "endpoint",
    ["http://[::1/v1", "http://localhost:port/v1", "http://localhost:0/v1", "http://", "localhost", "ftp://x"],
)
def test_wrong_addresses_are_errors(endpoint):
    with pytest.raises(UsageError, match="not an address such as"):
        Server(endpoint, "m")


@pytest.mark.parametrize("endpoint", ["http://a b/v1", "http://" + 99 * "x" + ".org/v1"])
def test_wrong_server_names_are_errors(captions, tmp_path, endpoint):
    with pytest.raises(RTDError, match="request failed"):
        build(captions, tmp_path / "t.jsonl", Server(endpoint, "m"), limit=9)


@pytest.mark.parametrize("timeout", [float("nan"), float("inf"), 1e12, 0, -1])
def test_wrong_timeouts_are_errors(timeout):
    with pytest.raises(UsageError, match="--timeout"):
        Server("http://localhost/v1", "m", timeout=timeout)


def test_pauses_grow_and_follow_the_server(serve, captions, tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    replies = [(500, {}, b""), (500, {}, b""), (429, {"Retry-After": "7"}, b""), (429, {"Retry-After": "9999"}, b"")]
    model = serve(lambda caption, number: replies[number - 1] if number <= 4 else good(caption))
    build(captions, tmp_path / "t.jsonl", server(model, pause=1.0), limit=100, workers=1)
    assert 1 <= slept[0] <= 1.5
    assert 2 <= slept[1] <= 3
    assert slept[2:] == [7, 60]


RUBBISH = {
    "words": "Sure! Here are your pictures.",
    "nothing": "",
    "an object": json.dumps({"condition": "a", "target": "b"}),
    "no object": json.dumps(["a"]),
    "a key too many": json.dumps([{"condition": "a", "target": "b", "why": "c"}]),
    "no text": json.dumps([{"condition": 1, "target": "b"}]),
    "an empty array": "[]",
    "deep": "[" * 50_000,
    "cut off": good(CAPTIONS[0])[:-5],
}


@pytest.mark.parametrize("answer", RUBBISH.values(), ids=RUBBISH)
def test_captions_with_rubbish_answers_are_asked_again_and_then_skipped(serve, captions, tmp_path, answer):
    model = serve(lambda caption, number: answer if caption == CAPTIONS[3] else good(caption))
    sent = build(captions, tmp_path / "t.jsonl", server(model), limit=100)
    assert (sent.rubbish, sent.done, sent.requests) == (3, 12, 14)
    assert read_conditions(tmp_path / "t.jsonl") == {c: rows for c, rows in WHOLE.items() if c != CAPTIONS[3]}


def test_an_answer_is_parsed_strictly():
    reference = "a dog on grass"
    fenced = f"```json\n{good(reference)}\n```"
    assert len(parse_answer(reference, fenced, 2)[0]) == 2
    assert len(parse_answer(reference, good(reference), 1)[0]) == 1
    bad = [
        {"condition": "same", "target": "A dog on grass."},
        {"condition": "show a cat on grass", "target": "a cat on grass"},
        {"condition": "is $", "target": "a cow on grass"},
        {"condition": "is green", "target": "a green dog on grass"},
    ]
    triplets, refused = parse_answer(reference, json.dumps(bad), 9)
    assert [triplet.condition for triplet in triplets] == ["is green"]
    assert refused == 3


@pytest.mark.parametrize(("status", "says"), [(401, "set RTD_PLUGIN_API_KEY"), (404, "no such model"), (302, "302")])
def test_permanent_errors_stop_at_once(serve, captions, tmp_path, status, says):
    model = serve(lambda caption, number: (status, {"Location": "http://127.0.0.1:9/elsewhere"}, b"no such model"))
    with pytest.raises(RTDError, match=says):
        build(captions, tmp_path / "t.jsonl", server(model), limit=100, workers=1)
    assert len(model.requests) <= 3
    assert not (tmp_path / "t.jsonl").exists()


def test_answers_are_kept_when_the_server_fails(serve, captions, tmp_path):
    model = serve(lambda caption, number: good(caption) if number <= 5 else (500, {}, b""))
    with pytest.raises(RTDError, match=r"failed 3 times in a row: HTTP 500 \(captions answered so far: 5"):
        build(captions, tmp_path / "t.jsonl", server(model, attempts=3), limit=100, workers=1)
    asked = {caption for _, caption, _, _ in model.requests[:5]}
    model = serve()
    sent = build(captions, tmp_path / "t.jsonl", server(model), limit=100)
    assert sent.requests == 7
    assert not asked & {caption for _, caption, _, _ in model.requests}
    assert read_conditions(tmp_path / "t.jsonl") == WHOLE


def test_a_closed_port_is_an_error(captions, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    with pytest.raises(RTDError, match=r"failed 2 times in a row: .*[Rr]efused"):
        build(captions, tmp_path / "t.jsonl", Server(endpoint, "m", attempts=2, pause=0.01), limit=9, workers=1)


def test_no_more_than_the_limit_is_sent(serve, captions, tmp_path):
    model = serve()
    sent = build(captions, tmp_path / "t.jsonl", server(model), limit=5)
    assert (sent.requests, sent.done, sent.left, len(model.requests)) == (5, 5, 7, 5)
    assert len(read_conditions(tmp_path / "t.jsonl")) == 5
    sent = build(captions, tmp_path / "t.jsonl", server(model), limit=100)
    assert (sent.requests, sent.done, sent.left) == (7, 12, 0)
    assert read_conditions(tmp_path / "t.jsonl") == WHOLE


def test_retries_count_towards_the_limit(serve, captions, tmp_path):
    model = serve(lambda caption, number: (500, {}, b""))
    sent = build(captions, tmp_path / "t.jsonl", server(model, attempts=99), limit=4, workers=1)
    assert (sent.requests, sent.done, len(model.requests)) == (4, 0, 4)


def test_an_answer_that_was_cut_off_on_disk_is_asked_again(serve, captions, tmp_path):
    build(captions, tmp_path / "t.jsonl", server(serve()), limit=5, workers=1)
    kept = tmp_path / "t.jsonl.answers"
    kept.write_bytes(kept.read_bytes()[:-20])
    sent = build(captions, tmp_path / "t.jsonl", server(serve()), limit=100)
    assert sent.requests == 8
    assert read_conditions(tmp_path / "t.jsonl") == WHOLE


def test_answers_that_cannot_be_removed_do_no_harm(serve, captions, tmp_path, monkeypatch, caplog):
    def fail(path, missing_ok=False):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as context:
        context.setattr(Path, "unlink", fail)
        build(captions, tmp_path / "t.jsonl", server(serve()), limit=100)
    assert read_conditions(tmp_path / "t.jsonl") == WHOLE
    kept = tmp_path / "t.jsonl.answers"
    assert f"{kept}: cannot be removed (Input/output error)" in caplog.text
    assert build(captions, tmp_path / "t.jsonl", server(serve()), limit=100).requests == 0
    assert not kept.exists()


def test_answers_after_one_that_was_cut_off_are_kept(tmp_path):
    with AnswerFile(tmp_path / "answers") as answers:
        answers.add("one", [])
        answers.add("two", [])
    (tmp_path / "answers").write_bytes((tmp_path / "answers").read_bytes()[:-5])
    with AnswerFile(tmp_path / "answers") as answers:
        answers.add("three", [])
    with AnswerFile(tmp_path / "answers") as answers:
        assert ["one" in answers, "two" in answers, "three" in answers] == [True, False, True]


def test_answers_that_do_not_fit_on_the_disk_are_an_error():
    with pytest.raises(RTDError, match="full: cannot be written"), AnswerFile(Path("/dev/full")) as answers:
        answers.add("one", [])


@pytest.mark.parametrize(
    "endpoint", ["localhost:8000", "ftp://a/b", "http://user:pass@host/v1", "http://h/v1?key=k", ""]
)
def test_bad_addresses_and_addresses_with_secrets_are_errors(endpoint):
    with pytest.raises(UsageError, match="--endpoint"):
        Server(endpoint, "m")

"""Other wordings of conditions by a language model: a stand-in server answers, and each wording is checked."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import CliRunner

from rtd_plugin import printable
from rtd_plugin.cli.main import main
from rtd_plugin.errors import RTDError, UsageError
from rtd_plugin.generation.llm.wordings import EXAMPLES, is_sound_wording, parse_wordings
from rtd_plugin.generation.workflows import paraphrase_triplets
from rtd_plugin.triplets.sources import JsonTriplets
from rtd_plugin.triplets.triplet import Triplet
from rtd_plugin.triplets.triplet_file import KEYS
from rtd_plugin.workflows.check import check_triplets

TRIPLETS = [
    Triplet(f"a red dog on the {place}", "make the dog black", f"a black dog on the {place}")
    for place in ("grass", "sand", "road", "roof")
]
GOOD = ["the dog is black, not red", "black dog instead of the red one"]


class Model(ThreadingHTTPServer):
    """A server; `reply(request number)` gives the text of its answer, or a status."""

    daemon_threads = True

    def __init__(self, reply: Callable[[int], str | int]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply, self.asked, self.lock = reply, [], threading.Lock()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.asked.append(body["messages"][-1]["content"])
            reply = self.server.reply(len(self.server.asked))
        status, text = (reply, "") if isinstance(reply, int) else (200, reply)
        content = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Print nothing."""


@pytest.fixture
def serve(monkeypatch) -> Iterator[Callable[..., Model]]:
    for name in printable.KEY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    running = []

    def serve(reply: Callable[[int], str | int] = lambda number: json.dumps(GOOD)) -> Model:
        model = Model(reply)
        threading.Thread(target=model.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        running.append(model)
        return model

    yield serve
    for model in running:
        model.shutdown()
        model.server_close()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(dict(zip(KEYS, triplet, strict=True))) + "\n" for triplet in TRIPLETS))
    return path


def reword(file, model, output, **options):
    endpoint = f"http://127.0.0.1:{model.server_port}/v1"
    return paraphrase_triplets(file, output, endpoint=endpoint, model="tiny", **options)


def test_each_triplet_is_followed_by_its_other_wordings(serve, file, tmp_path):
    model = serve()
    result = reword(file, model, tmp_path / "w.jsonl")
    written = list(JsonTriplets(path=tmp_path / "w.jsonl").load().triplets)
    assert written == [each._replace(condition=text) for each in TRIPLETS for text in (each.condition, *GOOD)]
    assert result == {
        "output": str(tmp_path / "w.jsonl"), "triplets": 4, "left_out": 0, "done": 4, "left": 0, "requests": 4,
        "rubbish": 0, "refused": 0, "wordings": 8,
    }  # fmt: skip
    assert check_triplets(tmp_path / "w.jsonl")["problems"] == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.jsonl", "w.jsonl"]
    assert sorted(model.asked)[0] == (
        "Caption: a red dog on the grass\nOther picture: a black dog on the grass\n"
        "Condition: make the dog black\nWordings: 3"
    )


@pytest.mark.parametrize(
    ("wording", "sound"),
    [
        ("the dog is now black", True),
        ("BLACK dog", True),
        ("make it blue", False),  # another value
        ("change the dog", False),  # names no value
        ("keep the red dog", False),
        ("no black dog", False),  # contradicts the target
        ("a black dog on the grass please", False),  # repeats the target
        ("a black * dog", False),
    ],
)
def test_a_wording_counts_if_it_asks_for_the_same(wording, sound):
    assert is_sound_wording(TRIPLETS[0], wording) is sound


def test_both_of_two_changes_must_be_named_and_a_third_must_not():
    triplet = Triplet(
        "a red dog and two cats on a large sofa",
        "the dog is black and there are three cats",
        "a black dog and three cats on a small sofa",
    )
    assert is_sound_wording(triplet, "three cats, black dog")
    assert not is_sound_wording(triplet, "a black dog")
    assert not is_sound_wording(triplet, "three cats and a black dog, the sofa is small")


def test_a_removed_thing_must_be_named():
    triplet = Triplet("a dog with a hat on the grass", "without the hat", "a dog on the grass")
    assert is_sound_wording(triplet, "take the hat away")
    assert not is_sound_wording(triplet, "just the dog")


def test_the_examples_of_the_prompt_pass_the_checks():
    for triplet, wordings in EXAMPLES:
        assert parse_wordings(triplet, json.dumps(wordings), 9) == ([[text] for text in wordings], 0)


def test_repeats_and_wordings_beyond_the_count_are_left_out():
    triplet = TRIPLETS[0]
    answer = json.dumps(["Make the dog black!", *GOOD, GOOD[0].upper(), "black dog, please"])
    assert parse_wordings(triplet, answer, 2) == ([[text] for text in GOOD], 3)
    assert parse_wordings(triplet, f"```json\n{json.dumps(GOOD)}\n```", 2) == ([[text] for text in GOOD], 0)
    for broken in ("no", "[]", "{}", '["a", 1]', '[""]', "[" * 100_000):
        with pytest.raises(ValueError):  # noqa: PT011 - each says something else
            parse_wordings(triplet, broken, 2)


def test_a_run_that_reached_its_limit_continues(serve, file, tmp_path):
    result = reword(file, serve(), tmp_path / "w.jsonl", limit=3, workers=1)
    assert (result["done"], result["left"], result["wordings"]) == (3, 1, 6)
    assert (tmp_path / "w.jsonl.answers").exists()
    model = serve()
    result = reword(file, model, tmp_path / "w.jsonl", workers=1)
    assert (result["done"], result["left"], result["wordings"], len(model.asked)) == (4, 0, 8, 1)
    assert not (tmp_path / "w.jsonl.answers").exists()


def test_a_server_that_refuses_leaves_no_output(serve, file, tmp_path):
    with pytest.raises(RTDError, match=r"conditions answered so far: 2, kept in w\.jsonl\.answers"):
        reword(file, serve(lambda number: json.dumps(GOOD) if number < 3 else 404), tmp_path / "w.jsonl", workers=1)
    assert not (tmp_path / "w.jsonl").exists()


def test_records_with_problems_are_left_out(serve, file, tmp_path):
    file.write_text(file.read_text() + json.dumps(dict(zip(KEYS, ("a dog", "is red", "a dog"), strict=True))) + "\n{\n")
    assert reword(file, serve(), tmp_path / "w.jsonl")["left_out"] == 2
    file.write_text("{}\n")
    with pytest.raises(RTDError, match="no usable triplet"):
        reword(file, serve(), tmp_path / "w.jsonl")
    with pytest.raises(UsageError, match="is the file that is read"):
        reword(file, serve(), file)


def test_the_command_says_what_it_did(serve, file, tmp_path):
    model = serve(lambda number: json.dumps([*GOOD, "make it blue"]))
    endpoint = f"http://127.0.0.1:{model.server_port}/v1"
    arguments = ["triplets", "paraphrase", str(file), "--output", str(tmp_path / "w.jsonl"), "--endpoint", endpoint]
    result = CliRunner().invoke(main, [*arguments, "--model", "tiny", "--limit", "3", "--workers", "1"])
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert "3 of 4 conditions answered, 3 requests sent; 0 answers without wordings, 3 wordings refused." in text
    assert "The limit left 1 condition unanswered; run the command again to continue." in text
    assert "Wrote 10 triplets, 6 of them with a new wording, to" in text
    assert CliRunner().invoke(main, arguments).exit_code == 2  # no model

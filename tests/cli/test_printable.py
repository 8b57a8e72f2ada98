"""Terminal control sequences and API keys do not reach a terminal, wherever they come from."""

import ast
import base64
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest
import torch
from rich.table import Table
from safetensors.torch import save_file

from rtd_plugin import printable
from rtd_plugin.cli import console
from rtd_plugin.cli.main import COMMANDS
from rtd_plugin.errors import RTDError
from rtd_plugin.printable import dump_json, make_printable, redact

PACKAGE = Path(console.__file__).parents[1]
EVIL = "\x1b[31m\x1b]0;title\x07\x9b2J\u202e\r\x08[red]x[/red][link=http:a]y"
UNSAFE = re.compile("[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
KEY = "sk-Ab/12+34 \"56='78"


@pytest.fixture
def run(rtd) -> Callable[..., str]:
    """Runs the command line in the test's folder; returns what it printed, which has nothing unsafe in it."""

    def run(*args: object, code: int | None = None) -> str:
        done = rtd(*args)
        assert not UNSAFE.search(done.output), repr(done.output)
        assert code in (None, done.exit_code), done.output
        return done.output

    return run


def artifact(folder: Path) -> tuple[object, ...]:
    path = folder / "text_encoder.safetensors"
    save_file({"x": torch.zeros(1)}, path, metadata={"format": "99", "version": json.dumps(EVIL)})
    return "export", path, "--layout", "rtd", "out.pt"


def manifest(folder: Path) -> tuple[object, ...]:
    (folder / "manifest.json").write_text(json.dumps({"format": 99, "version": EVIL}))
    return "run", folder, "--", "true"


def recipe_value(folder: Path) -> tuple[object, ...]:
    (folder / "r.yaml").write_text(json.dumps({"adapter": EVIL}))
    return "train", "--recipe", "r.yaml"


def shown_recipe(folder: Path) -> tuple[object, ...]:
    (folder / "r.yaml").write_text(f"adapter: lincir # {EVIL[2:5]}\u202e\u2028\n")
    return "recipes", "r.yaml"


def host(folder: Path) -> tuple[object, ...]:
    (folder / EVIL.replace("/", "")).mkdir()
    return "doctor", EVIL.replace("/", "")


def bad_triplets(folder: Path) -> tuple[object, ...]:
    name = EVIL.replace("/", "") + ".jsonl"
    (folder / name).write_text(json.dumps({EVIL: 1}) + "\n")
    return "triplets", "check", name


@pytest.mark.parametrize("prepare", [artifact, manifest, recipe_value, shown_recipe, host, bad_triplets])
@pytest.mark.parametrize("debug", [(), ("--debug",)], ids=["plain", "debug"])
def test_what_files_hold_is_printed_with_visible_escapes(run, tmp_path, prepare, debug):
    shown = run(*debug, *prepare(tmp_path))
    assert r"\x1b" in shown or prepare is shown_recipe
    assert "[red]" in shown or prepare is shown_recipe


@pytest.mark.parametrize("command", [*COMMANDS, EVIL])
def test_every_command_prints_an_evil_argument_with_visible_escapes(run, command):
    options = {
        "train": ("--recipe", EVIL),
        "evaluate": ("--benchmark", EVIL),
        "search": (EVIL, "is red", "--images", EVIL, "--recipe", EVIL),
        "export": (EVIL, "--layout", "rtd", EVIL),
        "index": (EVIL, "--weights", EVIL, "--output", EVIL),
        "triplets": ("check", EVIL),
        "run": (EVIL, "--", "true"),
        "push": (EVIL, "me/mine"),
        "adapters": (EVIL,),
    }
    assert r"\x1b" in run(command, *options.get(command, (EVIL,)))


def test_the_error_of_a_plugin_is_cleaned_in_a_process(tmp_path):
    """The command as a user starts it, with an installed plugin that cannot be imported."""
    (tmp_path / "evil.py").write_text(f"raise ValueError({EVIL!r})\n")
    info = tmp_path / "evil-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[rtd_plugin]\nevil = evil\n")
    command = [sys.executable, "-m", "rtd_plugin", "--debug", "adapters"]
    variables = {**os.environ, "PYTHONUTF8": "1", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=variables, check=False)
    shown = (done.stdout + done.stderr).decode()
    assert done.returncode == 1
    assert not UNSAFE.search(shown), repr(shown)
    assert shown.count(r"ValueError: \x1b[31m") >= 2


class Echo(http.server.BaseHTTPRequestHandler):
    """Refuses requests with their own key, at the end of what is read."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        key = self.headers["Authorization"].removeprefix("Bearer ")
        basic = base64.b64encode(f"user:{key}".encode()).decode()
        forms = [key, quote(key, safe=""), json.dumps(key), basic]
        content = f"{EVIL} {' '.join(forms)} Bearer {key} {'x' * 120} {key}".encode()
        self.send_response(401, f"no {key}")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Print nothing."""


class Answer(Echo):
    """Answers with triplets of which each holds the key."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        key = self.headers["Authorization"].removeprefix("Bearer ")
        triplets = [{"condition": f"has {key} on it", "target": f"a dog with {form}"} for form in (key, quote(key))]
        content = json.dumps({"choices": [{"message": {"content": json.dumps(triplets)}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def ask(run, tmp_path, monkeypatch) -> Iterator[Callable[..., str]]:
    """Runs `triplets build llm` with a handler of requests behind the endpoint, and a key in the environment."""
    monkeypatch.setenv("RTD_PLUGIN_API_KEY", KEY)
    (tmp_path / "captions.txt").write_text("a dog on grass\n")
    with ExitStack() as stack:

        def ask(handler: type[http.server.BaseHTTPRequestHandler], *debug: str, code: int) -> str:
            server = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
            stack.callback(server.shutdown)
            endpoint = f"http://127.0.0.1:{server.server_port}/v1"
            options = ("--output", "t.jsonl", "--endpoint", endpoint, "--model", "m")
            return run(*debug, "triplets", "build", "llm", "captions.txt", *options, code=code)

        yield ask


def assert_no_key(text: str) -> None:
    assert "Ab/12" not in text
    assert "Ab%2F12" not in text


@pytest.mark.parametrize("debug", [(), ("--debug",)], ids=["plain", "debug"])
def test_a_key_that_a_server_echoes_is_neither_printed_nor_kept(ask, tmp_path, debug):
    shown = ask(Echo, *debug, code=1)
    assert "HTTP 401" in shown
    assert "[redacted]" in shown
    assert_no_key(shown)
    for path in filter(Path.is_file, tmp_path.iterdir()):
        assert_no_key(path.read_text())


def test_an_answer_that_holds_the_key_is_refused(ask, tmp_path):
    shown = ask(Answer, code=0)
    assert_no_key(shown)
    for path in filter(Path.is_file, tmp_path.rglob("*")):
        assert_no_key(path.read_text())
    assert (tmp_path / "t.jsonl").read_text() == ""


def test_the_recipe_of_a_run_never_holds_the_key(run, files, tmp_path, monkeypatch):
    monkeypatch.setenv("RTD_PLUGIN_API_KEY", KEY)
    shown = run("train", "--recipe", files / "tiny.yaml", "--set", "steps=1", "--output", "run", code=0)
    assert_no_key(shown)
    for path in filter(Path.is_file, (tmp_path / "run").rglob("*")):
        assert KEY.encode() not in path.read_bytes()


FORMS = {
    "plain": KEY,
    "percent-encoded": quote(KEY, safe=""),
    "json": json.dumps(KEY),
    "json with slashes": json.dumps(KEY).replace("/", r"\/"),
    "wrapped": KEY[:6] + "\n  " + KEY[6:],
    "coloured": KEY[:6] + "\x1b[1m" + KEY[6:],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_secret_is_redacted(form):
    printable.register_secret(KEY)
    assert printable.holds_secret(FORMS[form])
    shown = make_printable(f"said {FORMS[form]} twice")
    assert shown.replace('"', "") == "said [redacted] twice"
    assert make_printable(shown) == shown


@pytest.mark.parametrize("user", ["", "a:", "ab:", "abc:"])
def test_base64_of_a_secret_is_redacted(user):
    printable.register_secret(KEY)
    code = base64.b64encode(f"{user}{KEY}".encode()).decode()
    assert "[redacted]" in redact(f"said {code}")
    assert code[8:20] not in redact(f"said {code}")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Bearer abcDEF123.x-y", "Bearer [redacted]"),
        ("Authorization: Basic dXNlcjpw", "Authorization: Basic [redacted]"),
        ("http://user:pass@host/v1", "http://[redacted]@host/v1"),
        ("a basic dress, mail a@b", "a basic dress, mail a@b"),
        ("http://host/v1?a@b", "http://host/v1?a@b"),
    ],
)
def test_credentials_of_any_server_are_redacted(text, shown):
    assert redact(text) == shown


def test_json_stays_the_same_value():
    value = {"ψ": [EVIL, "\u2028\ud800\x7f\n\t", "é"]}
    shown = dump_json(value)
    assert not UNSAFE.search(shown)
    assert json.loads(shown) == value
    assert "ψ" in shown


def test_cells_of_a_table_are_cleaned_before_they_are_measured(capsys):
    table = Table(EVIL, title=EVIL)
    table.add_row("\x1b[31mred\x9b")
    console.out().print(table, width=120)
    shown = capsys.readouterr().out
    assert not UNSAFE.search(shown)
    assert r"\x1b[31mred\x9b" in shown
    assert len({len(line) for line in shown.splitlines()[1:]}) == 1


def test_logs_and_warnings_are_cleaned():
    code = (
        "import logging, warnings; from rtd_plugin.cli.console import clean_messages\n"
        "with clean_messages():\n"
        "    logging.getLogger('any').warning('at %s', '\\x1b[31m')\n"
        "    warnings.warn('w \\x1b[31m')\n"
    )
    done = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stderr
    assert done.stderr.count(r"\x1b[31m") >= 2


def test_an_error_is_safe_wherever_it_is_printed():
    assert str(RTDError("a\x1b[31m\u202eb")) == r"a\x1b[31m\u202eb"


# These print what `make_printable` returned.
PRINTERS = {"cli/console.py", "patching/usage_log.py"}


def test_one_module_prints():
    printers = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                printing = name in ("print", "Console", "click.secho", "traceback.print_exc")
                if printing or name.endswith((".echo", "stdout.write", "stderr.write", ".Console")):
                    printers.add(str(path.relative_to(PACKAGE)))
    assert printers == PRINTERS

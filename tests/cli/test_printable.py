"""Terminal control sequences and API keys do not reach a terminal, whoever brought them."""

import ast
import base64
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

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


@pytest.fixture(autouse=True)
def _no_secrets(monkeypatch):
    monkeypatch.setattr(printable, "_secrets", set())


def run(*args: object, cwd: Path, code: int | None = None, **environment: str) -> str:
    """Run the command line as a process; return what it printed, which has nothing unsafe in it."""
    command = [sys.executable, "-m", "rtd_plugin", *map(os.fspath, args)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1", **environment}
    done = subprocess.run(command, capture_output=True, cwd=cwd, env=variables, check=False)
    shown = (done.stdout + done.stderr).decode()
    assert not UNSAFE.search(shown.replace("\r\n", "\n")), repr(shown)
    if code is not None:
        assert done.returncode == code, shown
    return shown


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
def test_what_files_hold_is_printed_with_visible_escapes(tmp_path, prepare, debug):
    shown = run(*debug, *prepare(tmp_path), cwd=tmp_path)
    assert r"\x1b" in shown or prepare is shown_recipe
    assert "[red]" in shown or prepare is shown_recipe


@pytest.mark.parametrize("command", [*COMMANDS, EVIL])
def test_every_command_prints_an_evil_argument_with_visible_escapes(tmp_path, command):
    options = {
        "train": ("--recipe", EVIL),
        "evaluate": ("--benchmark", EVIL),
        "search": (EVIL, "is red", "--images", EVIL, "--model", EVIL),
        "export": (EVIL, "--layout", "rtd", EVIL),
        "triplets": ("check", EVIL),
        "run": (EVIL, "--", "true"),
        "adapters": (EVIL,),
    }
    assert r"\x1b" in run(command, *options.get(command, (EVIL,)), cwd=tmp_path)


def test_a_plugin_s_error_is_cleaned(tmp_path):
    (tmp_path / "evil.py").write_text(f"raise ValueError({EVIL!r})\n")
    info = tmp_path / "evil-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[rtd_plugin]\nevil = evil\n")
    for debug in ((), ("--debug",)):
        assert r"ValueError: \x1b[31m" in run(*debug, "adapters", cwd=tmp_path, code=1, PYTHONPATH=str(tmp_path))


class Echo(http.server.BaseHTTPRequestHandler):
    """Refuses requests with their own key, at the end of what is read."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        key = self.headers["Authorization"].removeprefix("Bearer ")
        basic = base64.b64encode(f"user:{key}".encode()).decode()
        forms = [key, urllib.parse.quote(key, safe=""), json.dumps(key), basic]
        content = f"{EVIL} {' '.join(forms)} Bearer {key} {'x' * 120} {key}".encode()
        self.send_response(401, f"no {key}")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Print nothing."""


@pytest.mark.parametrize("debug", [(), ("--debug",)], ids=["plain", "debug"])
def test_a_key_that_a_server_echoes_is_neither_printed_nor_kept(tmp_path, debug):
    (tmp_path / "captions.txt").write_text("a dog on grass\n")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        endpoint = f"http://127.0.0.1:{server.server_port}/v1"
        command = ("triplets", "build", "llm", "captions.txt", "--output", "t.jsonl", "--endpoint", endpoint)
        shown = run(*debug, *command, "--model", "m", cwd=tmp_path, code=1, RTD_PLUGIN_API_KEY=KEY)
    finally:
        server.shutdown()
        server.server_close()
    assert "HTTP 401" in shown
    assert "[redacted]" in shown
    assert "Ab/12" not in shown
    assert "Ab%2F12" not in shown
    for path in filter(Path.is_file, tmp_path.iterdir()):
        assert "Ab/12" not in path.read_text()


FORMS = {
    "plain": KEY,
    "percent-encoded": urllib.parse.quote(KEY, safe=""),
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


# These print what `make_printable` returned, and JSON for the doctor.
PRINTERS = {"cli/console.py", "patching/usage_log.py", "patching/self_check.py"}


def test_one_module_prints():
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                printing = name in ("print", "Console", "click.secho", "traceback.print_exc")
                if printing or name.endswith((".echo", "stdout.write", "stderr.write", ".Console")):
                    found.add(str(path.relative_to(PACKAGE)))
    assert found == PRINTERS

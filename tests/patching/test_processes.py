"""Patches in other processes: `rtd-plugin run`, activation scripts, children, whatever they do."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest
import torch

from rtd_plugin.contract.composition import Composition, compose

# Composes a row for each of its arguments, with a model of the checkpoint CLIP.
COMPOSE = """
import sys, os, torch
sys.path.insert(0, os.environ["HOST"] + "/src")
from validate import TEXTS, PSEUDO_TOKENS, build_model, encode_with_pseudo_tokens
torch.set_num_threads(1)
model = build_model(torch.load(os.environ["CLIP"], weights_only=True)).float()

def composed(row):
    with torch.no_grad():
        return encode_with_pseudo_tokens(model, TEXTS[[row]], PSEUDO_TOKENS[[row]])
"""


@pytest.fixture(scope="module")
def texts():
    namespace = {}
    source = (Path(__file__).parent / "hosts/searle/src/validate.py").read_text()
    exec(source.split("def retrieve")[0].replace("from encode", "#"), namespace)
    return namespace["TEXTS"], namespace["PSEUDO_TOKENS"]


@pytest.fixture
def expected(files, texts):
    """What the host's programs save under a patch: composed queries by the tuned text encoder, plain texts not."""
    tokens, pseudo_tokens = texts
    composition = Composition(None, tokens, pseudo_tokens, 259)
    found = {"composed": compose(files.tuned, composition), "plain": files.base.encode(tokens)}
    found["untuned"] = compose(files.base, composition)
    return found


@pytest.fixture
def searle(patch_host, files):
    manifest = patch_host("searle")
    return manifest, {"HOST": manifest.host, "CLIP": str(files.clip)}


def snapshot(folder: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def last(done):
    return done.stderr.strip().splitlines()[-1]


def test_only_composed_queries_change(searle, rtd, files, expected, tmp_path):
    """And no file of the host does."""
    manifest, environment = searle
    before = snapshot(manifest.host)
    command = [sys.executable, "src/validate.py", files.clip, tmp_path / "result.pt"]
    done = rtd("run", manifest.folder, "--", *command, cwd=Path(manifest.host), **environment)
    assert (done.returncode, done.stdout) == (0, "recall = 50.00\n"), done.stderr
    assert done.stderr.splitlines() == ["rtd-plugin: 3 composed queries used the tuned text encoder"]
    found = torch.load(tmp_path / "result.pt", weights_only=True)
    close(found["composed"], expected["composed"])
    close(found["plain"], expected["plain"])
    assert (expected["composed"] - expected["untuned"]).abs().max() > 0.1
    assert snapshot(manifest.host) == before


def test_training_code_keeps_the_pre_trained_encoder(searle, rtd, files, expected, tmp_path):
    """Also what it validates by other programs' functions."""
    manifest, _ = searle
    command = [sys.executable, "train_phi.py", files.clip, tmp_path / "result.pt"]
    done = rtd("run", manifest.folder, "--", *command, cwd=Path(manifest.host) / "src")
    close(torch.load(tmp_path / "result.pt", weights_only=True)["composed"], expected["untuned"])
    assert last(done) == (
        "rtd-plugin: warning: no composed query used the tuned text encoder; 1 call from training code kept the "
        "pre-trained one"
    )


def test_nothing_is_imported_before_it_is_needed(searle, rtd, write_program):
    """The bootstrap imports the standard library alone, the first composed query torch, numpy and what reads weights.

    The host has modules named datasets, models and utils, which fail when they are imported.
    """
    program = write_program(
        """
import sys
def names():
    return {name.split(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
print(*sorted(name for name in names() if not name.startswith("__")))
"""
        + COMPOSE
        + """
host = names()
composed(0)
print(*sorted(names() - host))
"""
    )
    manifest, environment = searle
    done = rtd("run", manifest.folder, "--", *program, **environment)
    assert done.returncode == 0, done.stderr
    first, then = (set(line.split()) for line in done.stdout.splitlines())
    assert first <= {"rtd_plugin", "sitecustomize", "_virtualenv", "distutils-precedence"} | _of_every_python()
    assert then <= {"filelock", "rtd_adapters", "safetensors"}


def test_a_python_that_does_not_import_the_host_imports_little(searle, run_command):
    code = "import sys; print(*[name for name in sys.modules if name.startswith('rtd_plugin')])"
    environment = {"PYTHONPATH": str(searle[0].folder / "site")}
    modules = set(run_command(sys.executable, "-c", code, **environment).stdout.split())
    assert "rtd_plugin.patching.bootstrap" in modules
    assert modules <= {
        "rtd_plugin",
        "rtd_plugin.contract",
        "rtd_plugin.contract.marker",
        "rtd_plugin.errors",
        "rtd_plugin.patching",
        "rtd_plugin.patching.bootstrap",
        "rtd_plugin.patching.import_hook",
        "rtd_plugin.patching.usage_log",
        "rtd_plugin.printable",
    }


def _of_every_python() -> set[str]:
    """What this environment's Python imports by itself when it starts."""
    code = "import sys; print(*{name.split('.')[0] for name in sys.modules})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_random_numbers_of_the_host_are_its_own(searle, rtd, write_program):
    program = write_program(
        COMPOSE
        + """
torch.manual_seed(5)
before = torch.get_rng_state()
composed(0)
print(torch.equal(torch.get_rng_state(), before))
"""
    )
    manifest, environment = searle
    assert rtd("run", manifest.folder, "--", *program, **environment).stdout == "True\n"


CHILDREN = {
    "workers": """
class Rows(torch.utils.data.Dataset):
    def __len__(self): return 3
    def __getitem__(self, row): return composed(row)[0]
if __name__ == "__main__":
    loader = torch.utils.data.DataLoader(Rows(), batch_size=1, num_workers=2, multiprocessing_context="CONTEXT")
    torch.save(torch.cat(list(loader)), sys.argv[1])
""",
    "program": "torch.save(torch.cat([composed(row) for row in range(3)]), sys.argv[1])\n",
    "rank": """
torch.distributed.init_process_group("gloo")
rows = [composed(row) for row in range(3)]
if torch.distributed.get_rank() == 0:
    torch.save(torch.cat(rows), sys.argv[1])
torch.distributed.destroy_process_group()
""",
}


@pytest.mark.parametrize(
    ("child", "line", "count"),
    [
        pytest.param("workers:fork", "python FILE OUT", "3 composed queries", id="workers"),
        pytest.param("program", "python -m program OUT", "3 composed queries", id="module"),
        pytest.param("program", "sh -c 'python FILE OUT && python FILE OUT'", "6 composed queries", id="shell"),
        pytest.param(
            "rank",
            "python -m torch.distributed.run --standalone --nproc-per-node 2 FILE OUT",
            "6 composed queries",
            id="torchrun",
        ),
    ],
)
def test_python_children(searle, rtd, write_program, expected, tmp_path, child, line, count):
    name, _, context = child.partition(":")
    write_program(COMPOSE + CHILDREN[name].replace("CONTEXT", context))
    out = tmp_path / "result.pt"
    names = {"python": sys.executable, "FILE": str(tmp_path / "program.py"), "OUT": str(out)}
    words = shlex.split(line)
    for ours, theirs in names.items():
        words = [re.sub(rf"\b{ours}\b", theirs, word) for word in words]
    manifest, environment = searle
    done = rtd("run", manifest.folder, "--", *words, **environment)
    assert done.returncode == 0, done.stderr
    close(torch.load(out, weights_only=True), expected["composed"])
    assert count in last(done)
    assert ("in 2 processes" in last(done)) == (not line.startswith("python -m program"))


@pytest.mark.parametrize(
    ("program", "code", "says"),
    [
        ("pass", 0, ": no composition point of HOST was imported"),
        ("COMPOSE", 0, ": a composition point of HOST was imported, but never called"),
        ("raise SystemExit(7)", 7, ": no composition point of HOST was imported"),
        ("COMPOSE; composed(0); os.kill(os.getpid(), 9)", 137, None),
    ],
)
def test_exit_codes_and_the_line_at_the_end(searle, rtd, write_program, program, code, says):
    manifest, environment = searle
    source = (COMPOSE if "COMPOSE" in program else "") + program.replace("COMPOSE; ", "").replace("COMPOSE", "")
    done = rtd("run", manifest.folder, "--", *write_program(source), **environment)
    assert done.returncode == code
    if says is None:
        assert last(done) == "rtd-plugin: 1 composed query used the tuned text encoder"
    else:
        warning = "rtd-plugin: warning: no composed query used the tuned text encoder"
        assert last(done) == warning + says.replace("HOST", manifest.host)


def test_an_error_that_the_host_swallows_is_told(patch_host, files, rtd, write_program):
    manifest = patch_host("searle", weights=files.other)
    program = write_program(COMPOSE + "try:\n    composed(0)\nexcept Exception:\n    print('done')\n")
    done = rtd("run", manifest.folder, "--", *program, HOST=manifest.host, CLIP=str(files.clip))
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert last(done).startswith("rtd-plugin: warning: no composed query used the tuned text encoder; failed: ")
    assert "tuned from ViT-Tiny (other)" in last(done)


def test_pythons_that_take_nothing_up(searle, rtd):
    manifest, _ = searle
    for command in (["true"], [sys.executable, "-I", "-c", ""]):
        done = rtd("run", manifest.folder, "--", *command)
        assert done.returncode == 0
        assert "no Python of the command activated the patch" in last(done)


def test_commands_that_cannot_run(searle, rtd, patch_host, files, tmp_path):
    manifest, _ = searle
    done = rtd("run", manifest.folder, "--", "no-such-command")
    assert (done.returncode, done.stderr) == (127, "Error: no-such-command: command not found\n")
    assert rtd("run", manifest.folder).returncode == 2
    assert "not a patch folder" in rtd("run", tmp_path / "checkout 0", "--", "true").stderr.replace("neither", "not")
    shutil.move(manifest.host, tmp_path / "moved")
    done = rtd("run", manifest.folder, "--", "true")
    assert (done.returncode, done.stderr) == (
        1,
        f"Error: {manifest.host}: the host that was patched is gone: patch the host again\n",
    )


def test_signals_reach_the_command(searle, tmp_path):
    manifest, _ = searle
    (tmp_path / "wait.py").write_text(
        "import signal, sys, time, pathlib\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))\n"
        "pathlib.Path('ready').touch()\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-m", "rtd_plugin", "run", manifest.folder, "--", sys.executable, "wait.py"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE)
    while not (tmp_path / "ready").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 9
    assert b"no composed query" in errors


def test_the_users_sitecustomize_and_path(searle, rtd, write_program, tmp_path):
    """Both are in force, the user's as if ours were not there; what it raises is told as ever."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "sitecustomize.py").write_text("import os; os.environ['MINE'] = __file__\nVALUE = 5\n")
    (own / "helper.py").write_text("NAME = 'helper'\n")
    lines = "composed(0)\nimport helper, sitecustomize as s\nprint(os.environ['MINE'], s.VALUE, helper.NAME)"
    program = write_program(COMPOSE + lines)
    manifest, environment = searle
    done = rtd("run", manifest.folder, "--", *program, PYTHONPATH=str(own), **environment)
    assert done.stdout == f"{own}/sitecustomize.py 5 helper\n", done.stderr
    assert last(done) == "rtd-plugin: 1 composed query used the tuned text encoder"
    (own / "sitecustomize.py").write_text("raise RuntimeError('my own')\n")
    done = rtd("run", manifest.folder, "--", *write_program("print(5)"), PYTHONPATH=str(own))
    assert done.stdout == "5\n"
    assert "RuntimeError: my own" in done.stderr


def test_two_patches_at_once(searle, rtd, write_program, files, patch_host, expected, copy_host, tmp_path):
    """An inner run of another patch of the host wins; it is counted by the outer one too."""
    manifest, environment = searle
    inner = patch_host(Path(manifest.host), folder="inner", blend=0.0)
    program = write_program(COMPOSE + CHILDREN["program"])
    again = [sys.executable, "-m", "rtd_plugin", "run", inner.folder, "--", *program, tmp_path / "result.pt"]
    done = rtd("run", manifest.folder, "--", *again, **environment)
    close(torch.load(tmp_path / "result.pt", weights_only=True), expected["untuned"])
    assert done.stderr.splitlines() == ["rtd-plugin: 3 composed queries used the tuned text encoder"] * 2


ACTIVATED = """
export PYTHONPATH=BEFORE
. PATCH/activate
. PATCH/activate
python FILE OUT
python -c "print('unrelated')"
rtd_deactivate
echo "$PYTHONPATH"
python FILE OUT.off
type rtd_deactivate >/dev/null 2>&1 && echo still there
unset PYTHONPATH; . PATCH/activate; rtd_deactivate; echo "${PYTHONPATH-unset}"
"""


FISH = {  # of the script above
    "export PYTHONPATH=": "set -gx PYTHONPATH ",
    ". PATCH/activate": "source PATCH/activate.fish",
    "type rtd_deactivate >/dev/null 2>&1 &&": "functions -q rtd_deactivate; and",
    "unset PYTHONPATH": "set -e PYTHONPATH",
    'echo "${PYTHONPATH-unset}"': "set -q PYTHONPATH; or echo unset",
}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_activation_scripts(searle, write_program, run_command, expected, tmp_path, shell):
    """For the shell alone, until it is undone, and once however often they are read."""
    assert shutil.which(shell), f"{shell} is not installed"
    manifest, environment = searle
    script = ACTIVATED
    for ours, theirs in FISH.items() if shell == "fish" else ():
        script = script.replace(ours, theirs)
    names = {"PATCH": manifest.folder, "BEFORE": tmp_path / "before", "OUT": tmp_path / "result.pt"}
    for name, value in {**names, "FILE": write_program(COMPOSE + CHILDREN["program"])[1]}.items():
        script = script.replace(name, f"'{value}'")
    done = run_command(shell, "-c", script, **environment)
    assert done.stdout.splitlines() == ["unrelated", str(tmp_path / "before"), "unset"], done.stderr
    assert done.stderr == "rtd-plugin: 3 composed queries used the tuned text encoder\n"
    close(torch.load(tmp_path / "result.pt", weights_only=True), expected["composed"])
    close(torch.load(tmp_path / "result.pt.off", weights_only=True), expected["untuned"])


def test_an_activated_shell_warns_of_the_hosts_programs_alone(searle, run_command, write_program, files):
    """Without a launcher, a process counts itself and its children; what has nothing to do with the host is silent."""
    manifest, environment = searle
    path = str(manifest.folder / "site")
    done = run_command(sys.executable, "-c", "import json", PYTHONPATH=path)
    assert (done.returncode, done.stderr) == (0, "")
    (Path(manifest.host) / "src/prepare.py").write_text("print('nothing composed')\n")
    done = run_command(sys.executable, f"{manifest.host}/src/prepare.py", PYTHONPATH=path)
    assert done.stderr == (
        "rtd-plugin: warning: no composed query used the tuned text encoder: "
        f"no composition point of {manifest.host} was imported\n"
    )
    program = write_program(COMPOSE + CHILDREN["workers"].replace("CONTEXT", "fork"))
    done = run_command(*program, "result.pt", PYTHONPATH=path, **environment)
    assert done.stderr == "rtd-plugin: 3 composed queries used the tuned text encoder in 2 processes\n"


@pytest.fixture
def other_python(tmp_path) -> str:
    """A Python of its own, in which nothing is installed."""
    venv.create(tmp_path / "venv", with_pip=False)
    return str(tmp_path / "venv/bin/python")


def test_another_python(searle, rtd, run_command, other_python, tmp_path):
    """The launcher sees at once that it lacks the package; elsewhere it matters when it imports the host."""
    manifest, _ = searle
    script = tmp_path / "script"
    script.write_text(f"#!{other_python}\nprint(5)\n")
    script.chmod(0o755)
    for words in ([other_python, "-c", "print(5)"], [script]):
        done = rtd("run", manifest.folder, "--", *words)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"{other_python} cannot use the patch (ModuleNotFoundError: No module named 'rtd_plugin')" in done.stderr
        assert f"{other_python} -m pip install rtd-plugin" in done.stderr
        assert f"or run the host with {sys.executable}" in done.stderr
    path = os.pathsep.join([str(manifest.folder / "site"), f"{manifest.host}/src"])
    unrelated = run_command(other_python, "-c", "print(5)", PYTHONPATH=path)
    assert (unrelated.returncode, unrelated.stdout, unrelated.stderr) == (0, "5\n", "")
    done = run_command(other_python, "-c", "import encode_with_pseudo_tokens", PYTHONPATH=path)
    assert done.returncode == 1
    assert done.stderr.startswith("rtd-plugin: this Python lacks rtd-plugin (No module named 'rtd_plugin')")


def test_a_broken_patch(searle, run_command, tmp_path):
    """It does not stop other programs; the host's are stopped, rather than run without the patch."""
    manifest, _ = searle
    text = (manifest.folder / "manifest.json").read_text()
    (manifest.folder / "manifest.json").write_text(text.replace('"format": 1', '"format": 2'))
    path = os.pathsep.join([str(manifest.folder / "site"), f"{manifest.host}/src"])
    assert run_command(sys.executable, "-c", "", PYTHONPATH=path).stderr == ""
    done = run_command(sys.executable, "-c", "import encode_with_pseudo_tokens", PYTHONPATH=path)
    assert done.returncode == 1
    assert "in format 2, but this version reads format 1" in done.stderr

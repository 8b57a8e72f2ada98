"""Patches in other processes: `rtd-plugin run`, activation scripts and their children."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
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

def compose(row):
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
def expected_features(files, texts):
    """What the host's programs save under a patch: composed queries by the tuned text encoder, plain texts not."""
    tokens, pseudo_tokens = texts
    composition = Composition(None, tokens, pseudo_tokens, 259)
    return {
        "composed": compose(files.tuned, composition),
        "plain": files.base.encode(tokens),
        "untuned": compose(files.base, composition),
    }


@pytest.fixture
def searle(patch_host, files):
    manifest = patch_host("searle")
    return manifest, {"HOST": manifest.host, "CLIP": str(files.clip)}


def read_files(folder: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def assert_close(result, expected):
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def read_last_line(done):
    return done.stderr.strip().splitlines()[-1]


def test_only_composed_queries_change(searle, rtd, files, expected_features, tmp_path):
    """And no file of the host does."""
    manifest, environment = searle
    before = read_files(manifest.host)
    command = [sys.executable, "src/validate.py", files.clip, tmp_path / "result.pt"]
    done = rtd("run", manifest.folder, "--", *command, cwd=Path(manifest.host), **environment)
    assert (done.returncode, done.stdout) == (0, "recall = 50.00\n"), done.stderr
    assert done.stderr.splitlines() == ["rtd-plugin: 3 composed queries used the tuned text encoder"]
    features = torch.load(tmp_path / "result.pt", weights_only=True)
    assert_close(features["composed"], expected_features["composed"])
    assert_close(features["plain"], expected_features["plain"])
    assert (expected_features["composed"] - expected_features["untuned"]).abs().max() > 0.1
    assert read_files(manifest.host) == before


@pytest.mark.slow
def test_training_code_keeps_the_pre_trained_encoder(searle, rtd, files, expected_features, tmp_path):
    """Also what it validates by other programs' functions."""
    manifest, _ = searle
    command = [sys.executable, "train_phi.py", files.clip, tmp_path / "result.pt"]
    done = rtd("run", manifest.folder, "--", *command, cwd=Path(manifest.host) / "src")
    assert_close(torch.load(tmp_path / "result.pt", weights_only=True)["composed"], expected_features["untuned"])
    assert read_last_line(done) == (
        "rtd-plugin: warning: no composed query used the tuned text encoder; 1 call from training code kept the "
        "pre-trained one"
    )


@pytest.mark.slow
def test_a_patch_imports_little_and_leaves_the_random_state(searle, rtd, write_program):
    """The bootstrap imports the standard library alone, the first composed query torch, which the host has imported.

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
state = torch.get_rng_state()
compose(0)
print(*sorted(names() - host))
print(torch.equal(torch.get_rng_state(), state))
"""
    )
    manifest, environment = searle
    done = rtd("run", manifest.folder, "--", *program, **environment)
    assert done.returncode == 0, done.stderr
    *lines, same_state = done.stdout.splitlines()
    first, then = (set(line.split()) for line in lines)
    assert first <= {"rtd_plugin", "sitecustomize", "_virtualenv", "distutils-precedence"} | _list_startup_modules()
    assert then <= {"pluggy", "rtd_adapters"}
    assert same_state == "True"


def test_a_python_that_does_not_import_the_host_imports_little(searle, run_command):
    code = "import sys; print(*[name for name in sys.modules if name.startswith('rtd_plugin')])"
    environment = {"PYTHONPATH": str(searle[0].folder / "site")}
    modules = set(run_command(sys.executable, "-c", code, **environment).stdout.split())
    assert "rtd_plugin.patching.bootstrap" in modules
    assert modules <= {
        "rtd_plugin",
        "rtd_plugin.patching",
        "rtd_plugin.patching.bootstrap",
        "rtd_plugin.patching.import_hook",
        "rtd_plugin.patching.usage_log",
    }


def test_the_launcher_does_not_import_torch(run_command):
    """Which would delay every command under a patch by seconds."""
    code = (
        "import sys, rtd_plugin.cli.main, rtd_plugin.cli.run, rtd_plugin.workflows.run; print('torch' in sys.modules)"
    )
    done = run_command(sys.executable, "-c", code)
    assert done.stdout == "False\n", done.stderr


def _list_startup_modules() -> set[str]:
    """What this environment's Python imports by itself when it starts."""
    code = "import sys; print(*{name.split('.')[0] for name in sys.modules})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


CHILDREN = {
    "workers": """
class Rows(torch.utils.data.Dataset):
    def __len__(self): return 3
    def __getitem__(self, row): return compose(row)[0]
if __name__ == "__main__":
    loader = torch.utils.data.DataLoader(Rows(), batch_size=1, num_workers=2, multiprocessing_context="fork")
    torch.save(torch.cat(list(loader)), sys.argv[1])
""",
    "program": "torch.save(torch.cat([compose(row) for row in range(3)]), sys.argv[1])\n",
    "rank": """
torch.distributed.init_process_group("gloo")
rows = [compose(row) for row in range(3)]
if torch.distributed.get_rank() == 0:
    torch.save(torch.cat(rows), sys.argv[1])
torch.distributed.destroy_process_group()
""",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("child", "line", "count"),
    [
        pytest.param("workers", "python FILE OUT", "3 composed queries", id="workers"),
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
def test_python_children(searle, rtd, write_program, expected_features, tmp_path, child, line, count):
    write_program(COMPOSE + CHILDREN[child])
    out = tmp_path / "result.pt"
    names = {"python": sys.executable, "FILE": str(tmp_path / "program.py"), "OUT": str(out)}
    words = shlex.split(line)
    for name, value in names.items():
        words = [re.sub(rf"\b{name}\b", value, word) for word in words]
    manifest, environment = searle
    done = rtd("run", manifest.folder, "--", *words, **environment)
    assert done.returncode == 0, done.stderr
    assert_close(torch.load(out, weights_only=True), expected_features["composed"])
    assert count in read_last_line(done)
    assert ("in 2 processes" in read_last_line(done)) == (not line.startswith("python -m program"))


# A composition point that imports nothing, so that the test is quick.
IMPORT = """
import os, pathlib, sys
folder = pathlib.Path(os.environ["HOST"], "src")
signature = "clip_model, text, pseudo_tokens, num_tokens=1"
(folder / "encode_with_pseudo_tokens.py").write_text(f"def encode_with_pseudo_tokens({signature}): ...")
sys.path.insert(0, str(folder))
import encode_with_pseudo_tokens
"""


@pytest.mark.parametrize(
    ("program", "code", "says"),
    [
        (IMPORT, 0, ": a composition point of HOST was imported, but never called"),
        ("raise SystemExit(7)", 7, ": no composition point of HOST was imported"),
        pytest.param("COMPOSE; compose(0); os.kill(os.getpid(), 9)", 137, None, marks=pytest.mark.slow),
    ],
)
def test_exit_codes_and_the_line_at_the_end(searle, rtd, write_program, program, code, says):
    manifest, environment = searle
    source = program.replace("COMPOSE; ", COMPOSE)
    done = rtd("run", manifest.folder, "--", *write_program(source), **environment)
    assert done.returncode == code
    if says is None:
        assert read_last_line(done) == "rtd-plugin: 1 composed query used the tuned text encoder"
    else:
        warning = "rtd-plugin: warning: no composed query used the tuned text encoder"
        assert read_last_line(done) == warning + says.replace("HOST", manifest.host)


@pytest.mark.slow
def test_an_error_that_the_host_swallows_is_reported(patch_host, files, rtd, write_program):
    manifest = patch_host("searle", weights=files.other)
    program = write_program(COMPOSE + "try:\n    compose(0)\nexcept Exception:\n    print('done')\n")
    done = rtd("run", manifest.folder, "--", *program, HOST=manifest.host, CLIP=str(files.clip))
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert read_last_line(done).startswith(
        "rtd-plugin: warning: no composed query used the tuned text encoder; failed: "
    )
    assert "tuned from ViT-Tiny (other)" in read_last_line(done)


def test_a_command_without_an_activated_python_is_reported(searle, rtd):
    manifest, _ = searle
    for command in (["true"], [sys.executable, "-I", "-c", ""]):
        done = rtd("run", manifest.folder, "--", *command)
        assert done.returncode == 0
        assert "no Python of the command activated the patch" in read_last_line(done)


def test_a_command_that_removes_the_temporary_folder(searle, rtd, tmp_path):
    manifest, _ = searle
    (tmp_path / "temporary").mkdir()
    words = ("sh", "-c", 'rm -r "$TMPDIR"; exit 5')
    done = rtd("run", manifest.folder, "--", *words, TMPDIR=str(tmp_path / "temporary"))
    assert done.returncode == 5
    assert "composed queries were not counted" in read_last_line(done)


def test_commands_that_cannot_run_are_refused(searle, rtd, patch_host, files, tmp_path):
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
    assert process.returncode == 9, errors
    assert b"no composed query" in errors


def test_sitecustomize_and_path_of_the_user_still_work(searle, rtd, write_program, tmp_path):
    """The user's module runs as if the patch's did not exist; its errors are shown."""
    user = tmp_path / "user"
    user.mkdir()
    (user / "sitecustomize.py").write_text("import os; os.environ['MINE'] = __file__\nVALUE = 5\n")
    (user / "helper.py").write_text("NAME = 'helper'\n")
    lines = "import os, helper, sitecustomize as s\nprint(os.environ['MINE'], s.VALUE, helper.NAME)"
    manifest, _ = searle
    done = rtd("run", manifest.folder, "--", *write_program(lines), PYTHONPATH=str(user))
    assert done.stdout == f"{user}/sitecustomize.py 5 helper\n", done.stderr
    assert "no composition point of" in read_last_line(done), "the patch was activated"
    (user / "sitecustomize.py").write_text("raise RuntimeError('broken')\n")
    done = rtd("run", manifest.folder, "--", *write_program("print(5)"), PYTHONPATH=str(user))
    assert done.stdout == "5\n"
    assert "RuntimeError: broken" in done.stderr


@pytest.mark.slow
def test_an_inner_run_of_another_patch_wins(searle, rtd, write_program, patch_host, expected_features, tmp_path):
    """The outer run counts its composed queries too."""
    manifest, environment = searle
    inner = patch_host(Path(manifest.host), folder="inner", blend=0.0)
    program = write_program(COMPOSE + CHILDREN["program"])
    again = [sys.executable, "-m", "rtd_plugin", "run", inner.folder, "--", *program, tmp_path / "result.pt"]
    done = rtd("run", manifest.folder, "--", *again, **environment)
    assert_close(torch.load(tmp_path / "result.pt", weights_only=True), expected_features["untuned"])
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
type rtd_deactivate >/dev/null 2>&1 && echo still defined
unset PYTHONPATH; . PATCH/activate; rtd_deactivate; echo "${PYTHONPATH-unset}"
"""


FISH = {  # of the script above
    "export PYTHONPATH=": "set -gx PYTHONPATH ",
    ". PATCH/activate": "source PATCH/activate.fish",
    "type rtd_deactivate >/dev/null 2>&1 &&": "functions -q rtd_deactivate; and",
    "unset PYTHONPATH": "set -e PYTHONPATH",
    'echo "${PYTHONPATH-unset}"': "set -q PYTHONPATH; or echo unset",
}


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_activates_and_deactivates_a_patch(
    searle, write_program, run_command, expected_features, tmp_path, shell
):
    """Only in that shell, until `rtd_deactivate`; sourcing a script twice is idempotent."""
    assert shutil.which(shell), f"{shell} is not installed"
    manifest, environment = searle
    script = ACTIVATED
    for posix, fish in FISH.items() if shell == "fish" else ():
        script = script.replace(posix, fish)
    names = {"PATCH": manifest.folder, "BEFORE": tmp_path / "before", "OUT": tmp_path / "result.pt"}
    for name, value in {**names, "FILE": write_program(COMPOSE + CHILDREN["program"])[1]}.items():
        script = script.replace(name, f"'{value}'")
    done = run_command(shell, "-c", script, **environment)
    assert done.stdout.splitlines() == ["unrelated", str(tmp_path / "before"), "unset"], done.stderr
    assert done.stderr == "rtd-plugin: 3 composed queries used the tuned text encoder\n"
    assert_close(torch.load(tmp_path / "result.pt", weights_only=True), expected_features["composed"])
    assert_close(torch.load(tmp_path / "result.pt.off", weights_only=True), expected_features["untuned"])


def test_an_activated_shell_warns_only_of_programs_of_the_host(searle, run_command):
    """Other programs print nothing."""
    manifest, _ = searle
    path = str(manifest.folder / "site")
    done = run_command(sys.executable, "-c", "import json", PYTHONPATH=path)
    assert (done.returncode, done.stderr) == (0, "")
    (Path(manifest.host) / "src/prepare.py").write_text("print('nothing composed')\n")
    done = run_command(sys.executable, f"{manifest.host}/src/prepare.py", PYTHONPATH=path)
    assert done.stderr == (
        "rtd-plugin: warning: no composed query used the tuned text encoder: "
        f"no composition point of {manifest.host} was imported\n"
    )


@pytest.mark.slow
def test_without_a_launcher_a_process_counts_its_children(searle, run_command, write_program):
    manifest, environment = searle
    program = write_program(COMPOSE + CHILDREN["workers"])
    path = str(manifest.folder / "site")
    done = run_command(*program, "result.pt", PYTHONPATH=path, **environment)
    assert done.stderr == "rtd-plugin: 3 composed queries used the tuned text encoder in 2 processes\n"


def test_a_broken_patch_stops_only_programs_of_the_host(searle, run_command, tmp_path):
    """Rather than run them without the patch."""
    manifest, _ = searle
    text = (manifest.folder / "manifest.json").read_text()
    (manifest.folder / "manifest.json").write_text(text.replace('"format": 2', '"format": 3'))
    path = os.pathsep.join([str(manifest.folder / "site"), f"{manifest.host}/src"])
    (Path(manifest.host) / "src/encode_with_pseudo_tokens.py").write_text("")  # imports nothing, so the test is quick
    assert run_command(sys.executable, "-c", "", PYTHONPATH=path).stderr == ""
    done = run_command(sys.executable, "-c", "import encode_with_pseudo_tokens", PYTHONPATH=path)
    assert done.returncode == 1
    assert "in format 3, but this version reads format 2" in done.stderr

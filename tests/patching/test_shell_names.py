"""Activation in real shells for any name of a patch folder: a name never becomes code, and never fails silently."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rtd_plugin.cli.shell import quote, quote_path
from rtd_plugin.errors import UsageError
from rtd_plugin.patching.manifest import find_patch

SHELLS = ["bash", "zsh", "fish"]
NAMES = [
    "plain",
    "two words ",
    "it's",
    'a "quoted" name',
    "back\\slash\\",
    "\\'; touch ran; #",
    "'; touch ran; '",
    "'; touch ran; #",
    "; touch ran; #",
    "$(touch ran)",
    "(touch ran)",
    "`touch ran`",
    "$HOME ${HOME}",
    "line\nbreak\n",
    "touch ran\n",
    "!! !x",
    "~",
    "* [a-z] ? {a,b}",
    "-n",
    "%x %d @SITE@ &",
    "tab\tescape\x1b[31m",
    os.fsdecode(b"caf\xe9 \xff"),
    "über 日本",
]
PRINT = 'printf "%s\\0" "$PYTHONPATH"'
CHILD = "python -c 'import sys; from rtd_plugin.patching.bootstrap import _waiting; print(len(_waiting), end=chr(0))'"
# Activated twice, then undone: PYTHONPATH then ends with NUL, both times.
LINES = f'cd "$PATCH"; source ./activate && source "$PATCH/activate"; {PRINT}; rtd_deactivate; {PRINT}'


def translate(shell: str, text: str = LINES) -> str:
    """The text for a shell; the path comes in an environment variable, so that the test quotes nothing."""
    if shell == "fish":
        text = text.replace("/activate", "/activate.fish").replace("&&", "; and")
        text = text.replace('"$PYTHONPATH"', "(string join -- : $PYTHONPATH | string collect)")
    return text


@pytest.fixture
def start(tmp_path):
    """Runs lines in a shell; without the shell the test fails, and is not skipped."""

    def start(shell: str, text: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
        assert shutil.which(shell), f"{shell} is not installed"
        variables = {
            name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RTD_PLUGIN_USAGE_LOG")
        }
        variables["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{variables['PATH']}"
        options = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"], "dash": []}[shell]
        variables |= {"PATCH": str(folder), "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1", **environment}
        return subprocess.run(
            [shell, *options, "-c", text], cwd=tmp_path, env=variables, capture_output=True, check=False
        )

    return start


def rename(folder: Path, name: str) -> Path:
    shutil.move(folder, folder.with_name("moved"))
    (folder.parent / "names").mkdir(exist_ok=True)
    return Path(shutil.move(folder.with_name("moved"), folder.parent / "names" / name))


@pytest.mark.parametrize("shell", SHELLS)
def test_a_name_never_becomes_code(patch_host, start, tmp_path, shell):
    """All names in one process of a shell; the folders are copies of one patch."""
    written = patch_host("searle").folder
    folders = [shutil.copytree(written, tmp_path / "names" / name, copy_function=os.link) for name in NAMES]
    environment = {f"PATCH{index}": str(folder) for index, folder in enumerate(folders)}
    lines = [translate(shell, LINES).replace("$PATCH", f"$PATCH{index}") for index in range(len(folders))]
    done = start(shell, "\n".join(lines), tmp_path, PYTHONPATH="/before:/other", **environment)
    assert (done.stderr, done.returncode) == (b"", 0)
    *values, end = done.stdout.split(b"\0")
    assert end == b""
    assert len(values) == 2 * len(folders)
    for folder, with_site, without in zip(folders, values[::2], values[1::2], strict=True):
        assert os.path.normpath(os.fsdecode(with_site)) == f"{folder}/site:/before:/other"
        assert without == b"/before:/other"
    assert not list(tmp_path.rglob("ran")), "a name was run"


@pytest.mark.parametrize("name", ["line\nbreak\n", os.fsdecode(b"caf\xe9 \xff"), "it's $(touch ran)"])
def test_a_python_finds_the_patch_under_any_name(patch_host, start, tmp_path, name):
    folder = patch_host("searle", folder=name).folder
    done = start("bash", f'source "$PATCH/activate"; {CHILD}; rtd_deactivate; {CHILD}', folder)
    assert (done.stdout, done.stderr) == (b"1\0000\0", b"")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("before", [None, "", "/a", "/a:", ":/a", "/a::/b", ":"])
def test_deactivation_restores_the_value(patch_host, start, shell, before):
    folder = patch_host("searle", folder="it's").folder
    environment = {} if before is None else {"PYTHONPATH": before}
    show = "env | grep -c '^PYTHONPATH='; env | grep '^PYTHONPATH='; echo"
    text = f'{show}; source "$PATCH/activate"; rtd_deactivate; {show}'
    done = start(shell, translate(shell, text), folder, **environment)
    lines = done.stdout.decode().split("\n\n")
    assert done.stderr == b""
    assert lines[0] == lines[1] == ("0" if before is None else f"1\nPYTHONPATH={before}")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_colon_is_refused(patch_host, start, rtd, tmp_path, shell):
    """When the patch is written, run, and activated; nothing changes then."""
    with pytest.raises(UsageError, match="PYTHONPATH cannot hold a path with ':': patch the host with another"):
        patch_host("searle", folder="a:b")
    assert not (tmp_path / "a:b").exists()
    folder = rename(patch_host("searle").folder, "a:b")
    done = start(shell, translate(shell, f'source "$PATCH/activate"; {PRINT}'), folder)
    assert b'PYTHONPATH cannot hold a path with ":"' in done.stderr
    assert b"/site" not in done.stdout
    failed = start(shell, translate(shell, 'source "$PATCH/activate" && echo active'), folder)
    assert (failed.stdout, failed.returncode) == (b"", 1)
    done = rtd("run", folder, "--", "true")
    assert done.returncode == 2
    assert "PYTHONPATH cannot hold a path with ':'" in done.stderr


def test_a_host_may_have_a_colon(patch_host, copy_host, rtd, tmp_path):
    root = copy_host("searle").rename(tmp_path / "my:host")
    manifest = patch_host(root)
    assert find_patch(manifest.folder).host == str(root)
    code = "from rtd_plugin.patching.bootstrap import _waiting; print(*_waiting)"
    assert rtd("run", manifest.folder, "--", sys.executable, "-c", code).stdout == f"{root}\n"


def test_a_host_may_have_any_bytes(patch_host, copy_host, tmp_path):
    root = copy_host("searle").rename(tmp_path / os.fsdecode(b"caf\xe9"))
    assert find_patch(patch_host(root).folder).host == str(root)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_away_from_its_patch_is_refused(patch_host, start, tmp_path, shell):
    folder = patch_host("searle").folder
    for name in ("activate", "activate.fish"):
        shutil.copy(folder / name, tmp_path / name)
    done = start(shell, translate(shell, 'source "$PATCH/activate" && echo active'), tmp_path)
    assert (done.stdout, done.returncode) == (b"", 1)
    assert b"site: no such folder" in done.stderr


@pytest.mark.parametrize("shell", [*SHELLS, "dash"])
def test_quoted_words_are_read_back(start, tmp_path, shell):
    for name in (*NAMES, "", "'", "\\", "a:b"):
        done = start(shell, f"printf '%s' {quote(name)}", tmp_path)
        assert (done.stdout, done.stderr) == (os.fsencode(name), b"")
    assert not list(tmp_path.rglob("ran"))
    assert quote("runs/a-b_1.x") == "runs/a-b_1.x"
    assert quote_path("-x") == "./-x"
    assert quote_path(Path("-x y")) == "'./-x y'"
    assert quote_path("/a") == "/a"


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_names_that_a_terminal_cannot_show_are_escaped(copy_host, rtd, files, tmp_path, encoding):
    """Bytes that are not UTF-8 and line breaks are shown as escapes, whatever the encoding."""
    copy_host("searle").rename(tmp_path / os.fsdecode(b"caf\xe9 \xfc\n"))
    name = os.fsdecode(b"caf\xe9 \xfc\n")
    done = rtd("patch", name, "--weights", files.run, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert r"caf\udce9 \udcfc" in done.stdout
    assert (tmp_path / f"{name}-rtd-patch/manifest.json").is_file()

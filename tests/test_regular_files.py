"""Files are read only if they are regular, everywhere in the package."""

import ast
import os
import socket
from pathlib import Path

import pytest

import rtd_plugin
from rtd_plugin.regular_files import check_regular, open_regular, read_bytes, read_text

SOURCE = Path(rtd_plugin.__file__).parent
# These read only files of the package itself; inside a host's process no more is imported.
OWN_FILES = {
    "clip/artifact.py",
    "files.py",
    "patching/bootstrap.py",
    "patching/patch_folder.py",
    "patching/scripts/sitecustomize.py",
    "patching/usage_log.py",
    "regular_files.py",
    "serving/app.py",
    "miniature/phrasings.py",
    "workflows/model_card.py",
}
METHODS = {"read_text", "read_bytes", "open"}
OTHERS = {"Image", "os", "clock", "opener"}  # whose `open` opens no file by its name


def is_plain_read(call):
    """Whether a call reads a file by its name: `open(…)`, or a path's `open`, `read_text` or `read_bytes`."""
    match call.func:
        case ast.Name("open"):
            modes = call.args[1:2]
        case ast.Attribute(ast.Name(name), _) if name in OTHERS:
            return False
        case ast.Attribute(_, name) if name in METHODS:
            modes = call.args[:1]
        case _:
            return False
    return not (modes and isinstance(modes[0], ast.Constant) and set(str(modes[0].value)) & set("wax"))


def test_the_whole_package_reads_files_through_this_module():
    readers = set()
    for file in SOURCE.rglob("*.py"):
        calls = (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call))
        if any(map(is_plain_read, calls)):
            readers.add(file.relative_to(SOURCE).as_posix())
    assert readers == OWN_FILES


def test_safetensors_are_opened_by_name_only_after_a_check():
    openers = {}
    for file in SOURCE.rglob("*.py"):
        for function in ast.walk(ast.parse(file.read_text())):
            if isinstance(function, ast.FunctionDef):
                calls = {ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)}
                if "safe_open" in calls:
                    openers[f"{file.name}:{function.name}"] = "check_regular" in calls
    assert len(openers) > 2
    assert all(openers.values()), openers


@pytest.fixture(params=["pipe", "link to a pipe", "socket", "device", "folder"])
def irregular(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    path = Path("x")
    match request.param:
        case "pipe":
            os.mkfifo(path)
        case "link to a pipe":
            os.mkfifo("pipe")
            path.symlink_to("pipe")
        case "socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind("x")
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
    return path


@pytest.mark.timeout(60)  # a pipe that is opened blocks
@pytest.mark.parametrize("read", [check_regular, open_regular, read_bytes, read_text])
def test_irregular_files_are_refused_at_once(irregular, read):
    with pytest.raises(OSError, match=r"Is a directory|a pipe, socket or device, not a regular file") as error:
        read(irregular)
    assert error.value.strerror
    assert error.value.filename == "x"


def test_a_file_of_a_terabyte_is_not_read(tmp_path):
    with (tmp_path / "x").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(OSError, match="larger than 1,000,000,000 bytes"):
        read_text(tmp_path / "x")


def test_line_ends_are_those_of_text_files(tmp_path):
    (tmp_path / "x").write_bytes(b"a\r\nb\rc\n")
    assert read_text(tmp_path / "x") == (tmp_path / "x").read_text() == "a\nb\nc\n"

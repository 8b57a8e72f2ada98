"""Files are written atomically."""

import hashlib
import os
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rtd_plugin.errors import RTDError
from rtd_plugin.files import DRAFT_LOCK, write_atomically, write_text
from rtd_plugin.regular_files import hash_file

STATE = {"weight": torch.arange(6.0).reshape(2, 3)}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written(tmp_path):
    write_text(tmp_path / "new" / "a.txt", "“one”")
    write_text(tmp_path / "new" / "a.txt", "two")
    assert (tmp_path / "new" / "a.txt").read_text() == "two"
    assert names(tmp_path / "new") == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file(tmp_path, error):
    write_text(tmp_path / "a.txt", "old")

    def write():
        with write_atomically(tmp_path / "a.txt") as draft:
            draft.write_text("new")
            raise error("stop")

    with pytest.raises(error, match="stop"):
        write()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def make_folder(path: Path, name: str) -> None:
    with write_atomically(path) as draft:
        draft.mkdir()
        (draft / name).write_text(name)


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    make_folder(tmp_path / "step", "one")
    make_folder(tmp_path / "step", "two")
    assert names(tmp_path / "step") == ["two"]
    assert names(tmp_path) == ["step"]


def test_written_files_have_the_mode_of_any_new_file(tmp_path):
    """Safetensors writes files that only their owner can read."""
    (tmp_path / "other").touch()
    with write_atomically(tmp_path / "a.safetensors") as draft:
        save_file(STATE, draft)
    with write_atomically(tmp_path / "folder") as draft:
        draft.mkdir()
        save_file(STATE, draft / "a.safetensors")
    mode = (tmp_path / "other").stat().st_mode
    assert (tmp_path / "a.safetensors").stat().st_mode == mode
    assert (tmp_path / "folder" / "a.safetensors").stat().st_mode == mode


def test_a_folder_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    make_folder(tmp_path / "step", "one")
    replace = __import__("os").replace

    def fail_for_the_new_one(source, target):
        if Path(source).name == "step" and Path(source).parent != tmp_path:
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr("os.replace", fail_for_the_new_one)
    with pytest.raises(RTDError, match="Input/output error"):
        make_folder(tmp_path / "step", "two")
    assert names(tmp_path / "step") == ["one"]


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    make_folder(tmp_path / "results", "precious")
    with pytest.raises(RTDError, match=r"results: cannot be written \(it is a folder"):
        write_text(tmp_path / "results", "text")
    assert names(tmp_path / "results") == ["precious"]
    assert names(tmp_path) == ["results"]


def leave_draft(folder: Path) -> Path:
    """Kill a process while it writes the file `a`; returns the draft that it leaves."""
    code = """
import os, sys
from pathlib import Path
from rtd_plugin.files import write_atomically
with write_atomically(Path(sys.argv[1]) / "a") as draft:
    draft.write_text("half")
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code, str(folder)], check=False)
    (draft,) = folder.glob(".a.*")
    return draft


def make_old(draft: Path) -> None:
    os.utime(draft / DRAFT_LOCK, (1, 1))


def test_the_draft_of_a_killed_process_is_removed_once_it_is_old(tmp_path):
    draft = leave_draft(tmp_path)
    write_text(tmp_path / "b", "text")
    assert (draft / "a").read_text() == "half"
    make_old(draft)
    write_text(tmp_path / "b", "text")
    assert names(tmp_path) == ["b"]


def test_an_old_draft_without_a_lock_is_removed(tmp_path):
    """A process was killed just after it made the draft, or while it removed it."""
    draft = leave_draft(tmp_path)
    (draft / DRAFT_LOCK).unlink()
    write_text(tmp_path / "b", "text")
    assert names(tmp_path) == [draft.name, "b"]
    os.utime(draft, (1, 1))
    write_text(tmp_path / "b", "text")
    assert names(tmp_path) == ["b"]


def test_an_old_draft_that_is_being_written_stays(tmp_path):
    with write_atomically(tmp_path / "a") as draft:
        draft.write_text("text")
        make_old(draft.parent)
        write_text(tmp_path / "b", "text")
        assert draft.read_text() == "text"
    assert names(tmp_path) == ["a", "b"]


def test_folders_that_are_not_drafts_stay(tmp_path):
    (tmp_path / ".config.personal").mkdir()
    os.utime(tmp_path / ".config.personal", (1, 1))
    write_text(tmp_path / "a", "text")
    assert names(tmp_path) == [".config.personal", "a"]


@pytest.mark.parametrize("write", [lambda path: write_text(path, "text"), lambda path: make_folder(path, "file")])
def test_content_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch, write):
    """After a power failure, a renamed file whose content was not flushed is empty."""
    calls, fsync, replace = [], os.fsync, os.replace

    def record_fsync(descriptor):
        calls.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def record_replace(source, target):
        calls.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    write(tmp_path / "a")
    flushed = calls[: calls.index("replace")]
    assert {Path(path).name for path in flushed} in ({"a"}, {"a", "file"})
    assert calls[-1] == str(tmp_path)


@contextmanager
def full_disk():
    """No file of this process grows over 2 KB: writing fails as on a full disk.

    Not a fixture: pytest would write its own report under the limit, which may be a file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_text("x" * 5000),
        lambda path: torch.save({"weight": torch.zeros(5000)}, path),
        lambda path: torch.save({"weight": torch.zeros(1000)}, path),  # fails when C++ closes the file
        lambda path: save_file({"weight": torch.zeros(5000)}, path),
    ],
    ids=["text", "torch", "small torch", "safetensors"],
)
def test_a_full_disk_leaves_the_old_file(tmp_path, write):
    write_text(tmp_path / "a", "old")

    def fill():
        with full_disk(), write_atomically(tmp_path / "a") as draft:
            write(draft)

    with pytest.raises(RTDError, match="a: cannot be written") as error:
        fill()
    assert "\n" not in str(error.value)
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_path_that_cannot_be_written_is_reported(tmp_path):
    write_text(tmp_path / "file", "")
    with pytest.raises(RTDError, match="cannot be written"):
        write_text(tmp_path / "file" / "below", "")


def test_other_errors_pass_unchanged(tmp_path):
    def compute():
        with write_atomically(tmp_path / "a"):
            raise RuntimeError("CUDA out of memory")

    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        compute()


def test_a_file_is_hashed_by_its_content(tmp_path):
    content = bytes(range(256)) * 5000  # more than one block
    (tmp_path / "a").write_bytes(content)
    assert hash_file(tmp_path / "a") == hashlib.sha256(content).hexdigest()

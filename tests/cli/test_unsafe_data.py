"""Untrusted data: images and names that `evaluate` and `search` refuse or escape."""

import os
import threading
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import EpsImagePlugin, Image

from rtd_plugin.workflows.evaluate import name_folders

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
PICTURES = {
    "evaluate folder": "folder/3.png",
    "evaluate genecis": "genecis/VG_100K/2400001.jpg",
    "search reference": "mine.png",
    "search gallery": "folder/3.png",
}


@pytest.fixture
def run(rtd, files):
    """Runs one of PICTURES' commands."""
    setup = (
        *("--adapter", "lincir", "--model", files / "model.json", "--checkpoint", files / "clip.pt"),
        *("--projection", files / "phi.pt", "--cache", "cache", "--workers", 1),
    )

    def run(name, *options):
        command, data = name.split()
        if data != "genecis":
            options = ("--no-skip-unreadable", *options)
        if command == "evaluate":
            return rtd("evaluate", *setup, "--benchmark", data, "--data", data, "--output", "out", *options)
        image = "mine.png" if data == "reference" else "folder/1.png"
        return rtd("search", image, "is red", "--images", "folder", "--page", "page.html", *setup, *options)

    return run


@pytest.fixture
def vacate(write_dataset, tmp_path):
    """Writes a command's data without the image of PICTURES; returns the image's path."""

    def vacate(name):
        data = "genecis" if "genecis" in name else "folder"
        write_dataset(data, tmp_path / data)
        (tmp_path / PICTURES[name]).unlink(missing_ok=True)
        return tmp_path / PICTURES[name]

    return vacate


def check_refused(done, path, says):
    assert done.exit_code == 1, done.output
    assert isinstance(done.exception, SystemExit)
    line = done.stderr.splitlines()[-1]
    assert path.name in line
    assert says in line
    assert not Path("out").exists()
    assert not Path("page.html").exists()


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_starts_no_program(run, vacate, tmp_path, monkeypatch, name):
    program, mark = tmp_path / "bin/gs", tmp_path / "started"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {mark}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    path = vacate(name)
    path.write_bytes(EPS)
    check_refused(run(name), path, "not an image in one of the formats JPEG, PNG")
    assert not mark.exists()


@contextmanager
def release_readers(pipe):
    """After a minute, become a writer of a pipe again and again: a command that waits for one fails, but ends."""
    done = threading.Event()

    def release():
        while not done.wait(60 if not released else 0.1):
            os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))
            released.append(pipe)

    released = []
    thread = threading.Thread(target=release, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("name", PICTURES)
def test_a_pipe_is_refused_without_waiting(run, vacate, name):
    path = vacate(name)
    os.mkfifo(path)
    with release_readers(path):
        done = run(name)
    check_refused(done, path, "a pipe, socket or device")


@pytest.mark.parametrize("name", PICTURES)
def test_an_image_with_too_many_pixels_is_refused_without_a_warning(run, vacate, name):
    path = vacate(name)
    Image.new("1", (9_460, 9_460)).save(path, "png")
    done = run(name)
    check_refused(done, path, "9460 x 9460 are more than 89,478,485 pixels: save a smaller copy")
    assert "DecompressionBomb" not in done.output


@pytest.mark.parametrize("name", ["evaluate folder", "evaluate genecis", "search gallery"])
def test_a_picture_from_outside_is_shown_only_if_its_folder_is_named(run, vacate, tmp_path, name):
    path, secret = vacate(name), tmp_path / "private/secret.jpg"
    secret.parent.mkdir()
    Image.new("RGB", (40, 40), "red").save(secret)
    path.symlink_to(secret)
    search = name.startswith("search")
    check_refused(
        run(name), path, f"leads out of {tmp_path / PICTURES[name].split('/')[0]}" if not search else "leads out"
    )
    option = ("--image-root", "private") if search else ("--set", "image_roots=[private]")
    done = run(name, *option)
    assert done.exit_code == 0, done.output


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)


@pytest.mark.parametrize("name", ["evaluate folder", "search gallery"])
def test_names_and_conditions_are_escaped_on_a_page(run, vacate, write_dataset, tmp_path, name):
    """Names of images, conditions and groups."""
    vacate(name)
    evil = '"><script>alert(1)<!--.png'
    (tmp_path / "folder/0.png").rename(tmp_path / "folder" / evil)
    quoted = evil.replace('"', '""')
    rows = f'"{quoted}","{quoted}",1.png,"{quoted}"\n1.png,is red,"{quoted}","{quoted}"\n'
    (tmp_path / "folder/queries.csv").write_text("reference,condition,target,group\n" + rows)
    options = ("--top", 50) if name.startswith("search") else ()
    done = run(name, *options)
    assert done.exit_code == 0, done.output
    page = Path("page.html" if name.startswith("search") else "out/report.html").read_text()
    assert "&#34;&gt;&lt;script&gt;alert(1)&lt;!--.png" in page
    tags = Tags()
    tags.feed(page)
    assert "script" not in tags.tags


@pytest.mark.parametrize("name", [".", "..", "../..", "/etc", "a/../../b"])
def test_submissions_stay_in_their_folder(name):
    (folder,) = name_folders([name])
    assert os.path.normpath(Path("out/submissions", folder)).startswith("out/submissions/")


def test_each_text_encoder_has_a_submission_folder():
    names = ["pre-trained", "pre-trained", "a/b", "a-b", "A-B", ".", "tuned"]
    folders = name_folders(names)
    assert folders == ["pre-trained", "pre-trained-2", "a-b", "a-b-2", "A-B-3", "tuned", "tuned-2"]

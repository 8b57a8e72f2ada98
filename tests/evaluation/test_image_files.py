"""Opening images: which files are read, in which formats, and of which sizes."""

import os
import socket
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from rtd_plugin import regular_files
from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation.image_features import pad_to_ratio
from rtd_plugin.evaluation.image_files import FORMATS, open_image

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def write_png_header(path, width, height):
    """A PNG that claims a size, with hardly any data."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b""))


def finish_or_release(pipe, call):
    """Run `call` in a thread; if it waits for a writer of the pipe, become one: the test then fails."""
    outcome = []

    def run():
        try:
            outcome.append(call())
        except RTDError as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60)
    waited = thread.is_alive()
    if waited:
        os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))
    assert not waited, "waits for a writer of the pipe"
    return outcome[0]


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A program on PATH in Ghostscript's place that writes a file when it is started; that file's path."""
    started, program = tmp_path / "started", tmp_path / "bin/gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {started}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None, raising=False)  # before Pillow 10.1 nothing is remembered
    return started


def test_pillow_starts_ghostscript(tmp_path, ghostscript):
    """Otherwise the next test could not fail."""
    (tmp_path / "x.png").write_bytes(EPS)
    with pytest.raises(OSError), Image.open(tmp_path / "x.png") as image:  # noqa: PT011
        image.load()
    assert ghostscript.exists()


def test_no_program_is_started(tmp_path, ghostscript):
    (tmp_path / "x.png").write_bytes(EPS)
    with pytest.raises(RTDError, match=r"x\.png: not an image in one of the formats JPEG, .*: convert or replace it"):
        open_image(tmp_path / "x.png")
    assert not ghostscript.exists()


@pytest.mark.parametrize("image_format", FORMATS)
def test_each_format_is_read_whatever_the_name(tmp_path, image_format):
    image = Image.new("RGB", (9, 6), (200, 10, 10))
    image.save(tmp_path / "x.img", image_format)
    opened = open_image(tmp_path / "x.img")
    assert (opened.size, opened.convert("RGB").getpixel((4, 3))[0] > 150) == ((9, 6), True)
    assert getattr(opened, "fp", None) is None


def test_a_link_to_a_picture_is_read(tmp_path):
    Image.new("RGB", (9, 6)).save(tmp_path / "x.png")
    (tmp_path / "link.png").symlink_to("x.png")
    assert open_image(tmp_path / "link.png").size == (9, 6)


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "x.png").symlink_to("pipe")
    error = finish_or_release(tmp_path / "pipe", lambda: open_image(tmp_path / "x.png"))
    assert "x.png: cannot be read (a pipe, socket or device, not a regular file)" in str(error)


def test_a_pipe_that_replaces_a_file_is_refused_at_once(tmp_path, monkeypatch):
    """Between the check of the file and its opening."""
    os.mkfifo(tmp_path / "x.png")
    real, calls = regular_files._check_mode, []

    def check_mode(path, mode):
        calls.append(mode)
        if len(calls) > 1:
            real(path, mode)

    monkeypatch.setattr(regular_files, "_check_mode", check_mode)
    error = finish_or_release(tmp_path / "x.png", lambda: open_image(tmp_path / "x.png"))
    assert "a pipe, socket or device" in str(error)
    assert len(calls) == 2


def test_devices_sockets_and_folders_are_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    for name, message in (
        ("socket", "a pipe, socket or device"),
        ("zero", "a pipe, socket"),
        ("folder", "Is a directory"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", None)
            with pytest.raises(RTDError, match=rf"{name}\.png: cannot be read \({message}"):
                open_image(tmp_path / f"{name}.png")


@pytest.mark.filterwarnings("default::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_460, 12_000, 40_000])
def test_too_many_pixels_are_refused(tmp_path, side):
    """Below Pillow's limit, where Pillow warns, and where it refuses."""
    write_png_header(tmp_path / "x.png", side, side)
    with pytest.raises(RTDError, match=r"x\.png: .*more than 89,478,485 pixels: save a smaller copy"):
        open_image(tmp_path / "x.png")


def test_a_warning_as_an_error_gives_the_same_message(tmp_path):
    write_png_header(tmp_path / "x.png", 12_000, 12_000)
    with pytest.raises(RTDError, match=r"x\.png: more than 89,478,485 pixels: save a smaller copy"):
        open_image(tmp_path / "x.png")


def test_the_limit_does_not_depend_on_pillows_setting(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    write_png_header(tmp_path / "x.png", 40_000, 40_000)
    with pytest.raises(RTDError, match=r"x\.png: 40000 x 40000 are more than 89,478,485 pixels"):
        open_image(tmp_path / "x.png")


def test_a_long_thin_picture_is_refused(tmp_path):
    """CLIP's preprocessing would enlarge it to 224 x 13,440,000."""
    write_png_header(tmp_path / "x.png", 60_000, 1)
    with pytest.raises(RTDError, match=r"x\.png: 60000 x 1: one side is more than 500 times the other: crop it"):
        open_image(tmp_path / "x.png")
    with pytest.raises(RTDError, match="15000 x 12000 are more than"):
        pad_to_ratio(Image.new("1", (15_000, 40)))


@pytest.mark.parametrize(
    ("content", "message"), [(None, "No such file"), (b"<html>", "not an image"), (b"", "not an im")]
)
def test_files_that_are_not_pictures_are_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(RTDError, match=message):
        open_image(tmp_path / "x.png")


def test_a_truncated_picture_is_refused(tmp_path):
    Image.effect_noise((40, 40), 50).save(tmp_path / "x.png")
    (tmp_path / "x.png").write_bytes((tmp_path / "x.png").read_bytes()[:200])
    with pytest.raises(RTDError, match=r"x\.png: cannot be read \(.*truncated.*\): replace the file"):
        open_image(tmp_path / "x.png")


GREYS = np.linspace(0, 255, 64).astype("uint8").reshape(8, 8)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("I;16", "png"), ("I;16", "tiff"), ("I;16B", "tiff"), ("I;16", "pgm")],
)
def test_greys_of_16_bits_look_like_those_of_8(tmp_path, mode, suffix):
    """Pillow would cut them off at 255, which makes them white."""
    deep = GREYS.astype(">u2" if mode == "I;16B" else "<u2") * 257
    Image.frombytes(mode, (8, 8), deep.tobytes()).save(tmp_path / f"x.{suffix}")
    image = open_image(tmp_path / f"x.{suffix}").convert("RGB")
    difference = np.asarray(image).astype(int) - GREYS[..., None]
    assert abs(difference).max() <= 1


@pytest.mark.parametrize("mode", ["I", "F"])
def test_greys_of_no_known_range_are_refused(tmp_path, mode):
    Image.new(mode, (8, 8), 1000).save(tmp_path / "x.tiff")
    with pytest.raises(RTDError, match=rf"x.tiff: pixels in Pillow's mode {mode}, of no known range: save it with 8"):
        open_image(tmp_path / "x.tiff")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB"])
def test_image_files_in_each_mode_become_rgb(tmp_path, mode):
    """As near as the mode allows to a grey of 200."""
    gray = Image.new("RGB", (8, 8), (200, 200, 200))
    if mode == "LAB":
        gray = Image.new("LAB", (8, 8), (205, 128, 128))
    elif mode == "PA":
        gray = gray.convert("P").convert("PA")
    else:
        gray = gray.convert(mode)
    # Pillow 11 cannot read the uncompressed YCbCr that it writes.
    gray.save(tmp_path / "x.tiff", compression="tiff_lzw" if mode == "YCbCr" else None)
    (low, high), *_ = open_image(tmp_path / "x.tiff").convert("RGB").getextrema()
    assert 195 <= high <= 255
    assert low == high or mode in ("1", "P", "PA")  # dithered

"""Opening pictures that may come from anywhere: regular files, in a closed list of formats, of a bounded size."""

import os
import stat
from pathlib import Path
from typing import BinaryIO, cast

from PIL import Image

from rtd_plugin.errors import RTDError

# Each is decoded within this process; Pillow starts Ghostscript for EPS, for example.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

MAX_PIXELS = 1024**3 // 4 // 3  # a quarter GiB in RGB, as Pillow's default; Pillow's own setting can only lower it
MAX_RATIO = 500  # of a picture's sides: CLIP's preprocessing makes the shorter one 224 pixels or more


def open_image(path: Path) -> Image.Image:
    """Read a picture whole and close its file; of an animation, the first frame.

    No format starts a program: a file is read as one of `FORMATS`, whatever its name says. A file that is not regular
    (after following links), such as a named pipe or a device, is refused without opening it. Before any pixel is
    decoded, a picture with more than `MAX_PIXELS` pixels is refused, and one that is more than `MAX_RATIO` times as
    long as it is wide.

    Returns:
        The picture in the mode in which it is stored.

    Raises:
        RTDError: the file is missing, not regular, of another format, broken, or too large.
    """
    try:
        _require_regular(path, path.stat().st_mode)
        with _open_without_waiting(path) as file:
            _require_regular(path, os.fstat(file.fileno()).st_mode)  # the path may name another file by now
            return _decode(path, file)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RTDError(f"{path}: more than {MAX_PIXELS:,} pixels: save a smaller copy") from error
    except RTDError:
        raise
    except Exception as error:  # Pillow fails in many ways on a broken file
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise RTDError(f"{path}: cannot be read ({reason}): replace the file") from error


def image_suffixes() -> set[str]:
    """Return the suffixes that files in `FORMATS` have, such as `.jpeg`, in lower case."""
    return {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}


def check_size(picture: object, size: tuple[int, int]) -> None:
    """Check that a picture that is about to be decoded or made, of a size (width, height) in pixels, is not too large.

    Raises:
        RTDError: it has more than `MAX_PIXELS` pixels, or its sides a ratio of more than `MAX_RATIO`.
    """
    width, height = size
    if width * height > MAX_PIXELS:
        raise RTDError(f"{picture}: {width} x {height} are more than {MAX_PIXELS:,} pixels: save a smaller copy")
    if max(size) > MAX_RATIO * min(size):
        raise RTDError(f"{picture}: {width} x {height}: one side is more than {MAX_RATIO} times the other: crop it")


def _decode(path: Path, file: BinaryIO) -> Image.Image:
    try:
        opened = Image.open(file, formats=FORMATS)
    except Image.UnidentifiedImageError as error:
        raise RTDError(
            f"{path}: not a picture in one of the formats {', '.join(FORMATS)}, or a broken one: convert or replace it"
        ) from error
    with opened as image:
        check_size(path, image.size)
        image.load()
        return image


def _open_without_waiting(path: Path) -> BinaryIO:
    """Open a file; a named pipe that took its place does not block."""
    return cast(BinaryIO, open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)))


def _require_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise RTDError(f"{path}: {kind}, not a picture's file: replace it by the picture or take it out")

"""Opening untrusted image files: regular files, in a closed list of formats, of a bounded size."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image, ImageOps

from rtd_plugin.errors import RTDError
from rtd_plugin.regular_files import open_regular

# Pillow decodes these in this process; for EPS it would start Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

MAX_PIXELS = 1024**3 // 4 // 3  # a quarter GiB in RGB, as Pillow's default; Pillow's own setting can only lower it
MAX_RATIO = 500  # of an image's sides: CLIP's preprocessing enlarges the shorter one to 224 pixels or more

_smallest_side: ContextVar[int | None] = ContextVar("_smallest_side", default=None)


@contextmanager
def decode_smaller(side: int | None) -> Iterator[None]:
    """Have `open_image` decode large JPEGs at a half, a quarter or an eighth, with no side below `side`, in the block.

    Args:
        side: in pixels; None for all of them.
    """
    token = _smallest_side.set(side)
    try:
        yield
    finally:
        _smallest_side.reset(token)


class OversizedImage(RTDError):
    """An image with more pixels than are read, or with sides of too large a ratio."""


def open_image(path: Path) -> Image.Image:
    """Read an image completely and close its file; of an animation, the first frame.

    A file is read as one of `FORMATS`, regardless of its name; none of them starts a program. A file that is not
    regular after following links, such as a named pipe or a device, is refused without opening it. An image with more
    than `MAX_PIXELS` pixels, or with sides of a ratio above `MAX_RATIO`, is refused before any pixel is decoded.

    Returns:
        The image in the mode in which it is stored; 16-bit greys, which Pillow would cut off at 255, in 8 bits.

    Raises:
        RTDError: the file is missing, not regular, of another format, broken, or too large.
    """
    try:
        with open_regular(path) as file:
            return decode_image(path, file)
    except (OSError, ValueError) as error:
        raise RTDError(
            f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}): replace the file"
        ) from error


def decode_image(name: object, file: BinaryIO, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image from an open file, as `open_image` does.

    Args:
        name: of the file, for messages.
        file: at the image's start.
        max_pixels: the most that are decoded, at most `MAX_PIXELS`.

    Raises:
        OversizedImage: the image has more, or its sides have too large a ratio.
        RTDError: the file is of another format, or broken.
    """
    try:
        return _decode(name, file, max_pixels)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise OversizedImage(f"{name}: more than {max_pixels:,} pixels: save a smaller copy") from error
    except RTDError:
        raise
    except Exception as error:  # Pillow fails in many ways on a broken file
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise RTDError(f"{name}: cannot be read ({reason}): replace the file") from error


def image_suffixes() -> set[str]:
    """Return the suffixes of files in `FORMATS` in lower case, such as `.jpeg`."""
    return {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}


def check_size(name: object, size: tuple[int, int], max_pixels: int = MAX_PIXELS) -> None:
    """Check the size (width, height) in pixels of an image before it is decoded or created.

    Raises:
        OversizedImage: it has more than `max_pixels` pixels, or its sides have a ratio above `MAX_RATIO`.
    """
    width, height = size
    if width * height > max_pixels:
        raise OversizedImage(f"{name}: {width} x {height} are more than {max_pixels:,} pixels: save a smaller copy")
    if max(size) > MAX_RATIO * min(size):
        raise OversizedImage(f"{name}: {width} x {height}: one side is more than {MAX_RATIO} times the other: crop it")


def _decode(name: object, file: BinaryIO, max_pixels: int) -> Image.Image:
    try:
        opened = Image.open(file, formats=FORMATS)
    except Image.UnidentifiedImageError as error:
        raise RTDError(
            f"{name}: not an image in one of the formats {', '.join(FORMATS)}, or a broken one: convert or replace it"
        ) from error
    with opened as image:
        check_size(name, image.size, max_pixels)
        side = _smallest_side.get()
        if side is not None:
            image.draft(None, (side, side))  # of JPEGs alone
        image.load()
        return reduce_depth(name, image)


def reduce_depth(name: object, image: Image.Image) -> Image.Image:
    """Return an image in a mode that Pillow converts to RGB without loss of its greys.

    Raises:
        RTDError: the greys' range is not known.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):  # from 0 to 65535
        return image.convert("I").point(lambda grey: grey * (1 / 257)).convert("L")
    if image.mode in ("I", "F", "La"):
        raise RTDError(
            f"{name}: pixels in Pillow's mode {image.mode}, of no known range: save it with 8 bits a channel"
        )
    return image


def turn_upright(image: Image.Image) -> Image.Image:
    """Return an image turned by its EXIF orientation; the same object if it is upright or its EXIF data are broken.

    Benchmarks do not turn images, like the hosts.
    """
    try:
        is_turned = image.getexif().get(ExifTags.Base.Orientation) in range(2, 9)
        return ImageOps.exif_transpose(image) if is_turned else image
    except Exception:  # Pillow fails in many ways on broken EXIF data
        return image

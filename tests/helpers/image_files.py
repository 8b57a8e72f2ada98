"""Images as files."""

import io

from PIL import Image


def make_image_file(size: tuple[int, int] = (200, 180), form: str = "png", colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, form)
    return file.getvalue()

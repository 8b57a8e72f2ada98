"""Images of scenes: the same pixels for the same scene, drawn with numpy."""

from functools import cache

import numpy as np
from PIL import Image

from rtd_plugin.miniature.world import Scene

SIDE = 48
TILE = 20  # a thing is drawn on a square of this side and copied to its place
CORNER = {"left": (14, 1), "right": (14, 27), "top": (1, 14), "bottom": (27, 14)}  # row and column
RADIUS = {"small": 5.75, "large": 9.75}
OUTLINE = 1.25  # pixels, black or white, so that a shape shows on any background
SUPERSAMPLING = 4
PAINT = {
    "red": (230, 25, 35), "orange": (255, 135, 0), "yellow": (250, 230, 20), "green": (30, 190, 40),
    "blue": (35, 75, 240), "purple": (160, 40, 210),
}  # fmt: skip
GROUND = {
    "white": (245, 245, 245), "black": (20, 20, 20), "grey": (130, 130, 130), "pink": (250, 175, 200),
    "brown": (110, 70, 35), "green": (20, 85, 50),
}  # fmt: skip
DARK = ("black", "brown", "green")


def render(scene: Scene) -> Image.Image:
    """Return the image of a scene, `SIDE` x `SIDE`, RGB."""
    pixels = np.empty((SIDE, SIDE, 3))
    pixels[:] = GROUND[scene.background]
    for thing in scene.things:
        row, column = CORNER[thing.place]
        tile = pixels[row : row + TILE, column : column + TILE]
        paint, cover = _draw_sprite(thing.size, thing.texture, thing.colour, thing.shape, scene.background in DARK)
        tile *= 1 - cover
        tile += paint
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


@cache
def _draw_sprite(size: str, texture: str, colour: str, shape: str, on_dark: bool) -> tuple[np.ndarray, np.ndarray]:
    """Draw a thing on a tile: colours weighted by coverage (TILE, TILE, 3), and coverage (TILE, TILE, 1)."""
    step = (np.arange(TILE * SUPERSAMPLING) + 0.5) / SUPERSAMPLING - TILE / 2
    x, y = np.meshgrid(step, -step)
    inside = _fill_shape(shape, x, y, RADIUS[size])
    fill = _fill_shape(shape, x, y, RADIUS[size] - OUTLINE)
    paint = np.zeros((*x.shape, 3))
    paint[inside] = 255 if on_dark else 0
    paint[fill] = PAINT[colour]
    paint[fill & _draw_marks(texture, x, y)] = 10
    return _shrink(paint), _shrink(inside[..., None].astype(float))


def _shrink(fine: np.ndarray) -> np.ndarray:
    return fine.reshape(TILE, SUPERSAMPLING, TILE, SUPERSAMPLING, -1).mean(axis=(1, 3))


def _fill_shape(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Return which points lie in a shape around the origin; y points upwards."""
    x, y = x / radius, y / radius
    match shape:
        case "circle":
            return x * x + y * y <= 1
        case "square":
            return np.maximum(abs(x), abs(y)) <= 0.86
        case "triangle":
            return (y >= -0.8) & (abs(x) <= 0.56 * (0.95 - y))
        case "star":
            return abs(x) ** 0.62 + abs(y) ** 0.62 <= 1.06
        case "cross":
            return (np.maximum(abs(x), abs(y)) <= 0.97) & (np.minimum(abs(x), abs(y)) <= 0.36)
        case "heart":
            u, v = x * 1.2, y * 1.2 + 0.1
            return (u * u + v * v - 1) ** 3 <= u * u * v**3
    raise ValueError(shape)


def _draw_marks(texture: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return which points a texture darkens; x and y in pixels from the centre."""
    match texture:
        case "striped":
            return (y + 1) % 4 < 2
        case "dotted":
            return ((x + 1) % 4 < 2) & ((y + 1) % 4 < 2)
    return np.zeros(x.shape, dtype=bool)

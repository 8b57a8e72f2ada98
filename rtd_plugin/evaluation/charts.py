"""The report's plot of recall as coordinates, which the page's SVG draws."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT = 640, 340
LEFT, RIGHT, TOP, BOTTOM = 40, WIDTH - 12, 10, 300  # of the area within the axes
COLORS = 8  # of the page


def draw_recall_plot(curves: Mapping[str, Sequence[float]], dashed: set[str]) -> dict[str, Any]:
    """Draw curves of recall at 1, 2, … in percent, over a logarithmic k.

    Args:
        curves: each by its label; all of one length.
        dashed: labels of the curves that are drawn dashed.
    """
    deepest = len(next(iter(curves.values())))
    highest = max(max(values) for values in curves.values())
    end = next((end for end in (1, 2, 5, 10, 20, 25, 50, 60, 80) if highest <= end), 100)  # of the axis, in percent
    steps = {1: 4, 2: 4, 20: 4, 60: 3, 80: 4}.get(end, 5)

    def x(k: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * (math.log(k) / math.log(deepest) if deepest > 1 else 0), 2)

    def y(value: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * value / end, 2)

    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": RIGHT,
        "top": TOP,
        "bottom": BOTTOM,
        "deepest": deepest,
        "x_ticks": [{"at": x(k), "label": k} for k in (1, 2, 5, 10, 20, 50) if k <= deepest],
        "y_ticks": [{"at": y(end * step / steps), "label": f"{end * step / steps:g}"} for step in range(steps + 1)],
        "curves": [
            {
                "label": label,
                "points": " ".join(f"{x(k)},{y(value)}" for k, value in enumerate(values, start=1)),
                "color": index % COLORS,
                "dashed": label in dashed,
            }
            for index, (label, values) in enumerate(curves.items())
        ],
    }

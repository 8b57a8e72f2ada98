"""The plots of pages as coordinates, which `charts.html` draws."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

WIDTH, HEIGHT = 640, 340
LEFT, RIGHT, TOP, BOTTOM = 40, WIDTH - 12, 10, 300  # of the area within the axes
COLORS = 8  # of the page
TICKS = 6  # at most, on an axis of steps, without that at 0


def draw_recall_plot(curves: Mapping[str, Sequence[float]], dashed: set[str]) -> dict[str, Any]:
    """Draw curves of recall at 1, 2, … in percent, over a logarithmic k.

    Args:
        curves: each by its label; all of one length.
        dashed: labels of the curves that are drawn dashed.
    """
    deepest = len(next(iter(curves.values())))
    points = {label: list(enumerate(values, start=1)) for label, values in curves.items()}
    scale = math.log(deepest) if deepest > 1 else math.inf
    return _draw(points, dashed, [k for k in (1, 2, 5, 10, 20, 50) if k <= deepest], lambda k: math.log(k) / scale)


def draw_step_plot(curves: Mapping[str, Sequence[tuple[int, float]]], dashed: set[str]) -> dict[str, Any]:
    """Draw curves of a metric in percent over optimizer steps, from 0.

    Args:
        curves: steps with the metric, each by its label.
        dashed: labels of the curves that are drawn dashed.
    """
    last = max(step for points in curves.values() for step, _ in points) or 1
    tick = next(t * 10**power for power in range(12) for t in (1, 2, 5) if last <= TICKS * t * 10**power)
    return _draw(curves, dashed, range(0, last + 1, tick), lambda step: step / last)


def _draw(
    curves: Mapping[str, Sequence[tuple[int, float]]],
    dashed: set[str],
    ticks: Iterable[int],
    place: Callable[[int], float],
) -> dict[str, Any]:
    """Draw curves; `place` gives where a value is on the horizontal axis, from 0 to 1."""
    highest = max(value for points in curves.values() for _, value in points)
    end = next((end for end in (1, 2, 5, 10, 20, 25, 50, 60, 80) if highest <= end), max(100, highest))  # of the axis
    steps = {1: 4, 2: 4, 20: 4, 60: 3, 80: 4}.get(int(end), 5)

    def x(value: int) -> float:
        return round(LEFT + (RIGHT - LEFT) * place(value), 2)

    def y(value: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * value / end, 2)

    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": RIGHT,
        "top": TOP,
        "bottom": BOTTOM,
        "x_ticks": [{"at": x(value), "label": value} for value in ticks],
        "y_ticks": [{"at": y(end * step / steps), "label": f"{end * step / steps:g}"} for step in range(steps + 1)],
        "curves": [
            {
                "label": label,
                "points": " ".join(f"{x(step)},{y(value)}" for step, value in points),
                "color": index % COLORS,
                "dashed": label in dashed,
            }
            for index, (label, points) in enumerate(curves.items())
        ],
    }

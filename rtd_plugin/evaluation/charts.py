"""Charts of the report as coordinates: what the page's SVG draws."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH = 640
SERIES = 8  # colours that the page has


def recall_plot(curves: Mapping[str, Sequence[float]], dashed: set[str]) -> dict[str, Any]:
    """Curves of recall at 1, 2, … in percent, over a logarithmic k.

    Args:
        curves: each with its label; all of one length.
        dashed: labels of those that are there for comparison.
    """
    left, right, top, bottom = 40, WIDTH - 12, 10, 300
    deepest = len(next(iter(curves.values())))
    highest = _scale(max(max(values) for values in curves.values()))

    def x(k: float) -> float:
        return round(left + (right - left) * (math.log(k) / math.log(deepest) if deepest > 1 else 0), 2)

    def y(value: float) -> float:
        return round(bottom - (bottom - top) * value / highest, 2)

    drawn = []
    for number, (label, values) in enumerate(curves.items()):
        points = " ".join(f"{x(k)},{y(value)}" for k, value in enumerate(values, start=1))
        drawn.append({"label": label, "points": points, "series": number % SERIES, "dashed": label in dashed})
    return {
        "width": WIDTH,
        "height": 340,
        "left": left,
        "right": right,
        "top": top,
        "bottom": bottom,
        "deepest": deepest,
        "across": [{"at": x(k), "label": k} for k in (1, 2, 5, 10, 20, 50) if k <= deepest],
        "up": [{"at": y(value), "label": f"{value:g}"} for value in _ticks(highest)],
        "curves": drawn,
    }


def group_bars(
    metric: str, groups: Mapping[str, Mapping[str, Mapping[str, float]]], sizes: Mapping[str, int], total: int
) -> dict[str, Any]:
    """Horizontal bars of one metric for each group of queries and text encoder.

    Args:
        metric: how it is called.
        groups: group to text encoder to its `value`, `low` and `high` in percent.
        sizes: queries in each group.
        total: queries altogether.
    """
    left, right, height, gap = 220, WIDTH - 16, 14, 12
    names = list(next(iter(groups.values())))
    highest = _scale(max(bar["high"] for bars in groups.values() for bar in bars.values()))

    def x(value: float) -> float:
        return round(left + (right - left) * value / highest, 2)

    drawn, y = [], 0.0
    for group, bars in groups.items():
        drawn_bars = []
        for number, (name, bar) in enumerate(bars.items()):
            place = {"y": y + number * height, "height": height - 2, "length": round(x(bar["value"]) - left, 2)}
            whisker = {"from": x(bar["low"]), "to": x(bar["high"])}
            drawn_bars.append({**bar, **place, **whisker, "name": name, "series": number % SERIES})
        label = f"{group.replace('_', ' ')} ({sizes[group]})"
        drawn.append({"label": label, "middle": y + len(bars) * height / 2, "bars": drawn_bars})
        y += len(bars) * height + gap
    return {
        "metric": metric,
        "names": names,
        "width": WIDTH,
        "height": y + 20,
        "left": left,
        "ticks": [{"at": x(value), "label": f"{value:g}"} for value in _ticks(highest)],
        "groups": drawn,
        "overlap": sum(sizes.values()) > total,
    }


def _scale(highest: float) -> float:
    """A round number, at least as large."""
    for step in (1, 2, 5, 10, 20, 25, 50):
        if highest <= step:
            return float(step)
    return float(min(100, math.ceil(highest / 20) * 20))


def _ticks(highest: float) -> list[float]:
    steps = 4 if highest in (1, 2, 20, 40, 80) else 5
    return [highest * number / steps for number in range(steps + 1)]

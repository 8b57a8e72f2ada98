"""Charts of the report as coordinates, which the page's SVG draws."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rtd_plugin.evaluation.comparison_table import Cell

WIDTH = 640
COLORS = 8  # that the page has


def draw_recall_plot(curves: Mapping[str, Sequence[float]], dashed: set[str]) -> dict[str, Any]:
    """Draw curves of recall at 1, 2, … in percent, over a logarithmic k.

    Args:
        curves: each by its label; all of one length.
        dashed: labels of the curves that are drawn dashed.
    """
    left, right, top, bottom = 40, WIDTH - 12, 10, 300
    deepest = len(next(iter(curves.values())))
    highest = _round_up(max(max(values) for values in curves.values()))

    def x(k: float) -> float:
        return round(left + (right - left) * (math.log(k) / math.log(deepest) if deepest > 1 else 0), 2)

    def y(value: float) -> float:
        return round(bottom - (bottom - top) * value / highest, 2)

    drawn = []
    for index, (label, values) in enumerate(curves.items()):
        points = " ".join(f"{x(k)},{y(value)}" for k, value in enumerate(values, start=1))
        drawn.append({"label": label, "points": points, "color": index % COLORS, "dashed": label in dashed})
    return {
        "width": WIDTH,
        "height": 340,
        "left": left,
        "right": right,
        "top": top,
        "bottom": bottom,
        "deepest": deepest,
        "x_ticks": [{"at": x(k), "label": k} for k in (1, 2, 5, 10, 20, 50) if k <= deepest],
        "y_ticks": [{"at": y(value), "label": f"{value:g}"} for value in _place_ticks(highest)],
        "curves": drawn,
    }


def draw_group_bars(
    metric: str, groups: Mapping[str, Mapping[str, Cell]], sizes: Mapping[str, int], queries: int
) -> dict[str, Any]:
    """Draw horizontal bars of one metric for each group of queries and text encoder.

    Args:
        metric: its name on the page.
        groups: group to text encoder to the metric.
        sizes: queries in each group.
        queries: of all groups together; fewer than the sum of `sizes` if groups overlap.
    """
    left, right, height, gap = 220, WIDTH - 16, 14, 12
    highest = _round_up(max(cell.high for cells in groups.values() for cell in cells.values()))

    def x(value: float) -> float:
        return round(left + (right - left) * value / highest, 2)

    drawn, y = [], 0.0
    for group, cells in groups.items():
        bars = [
            {
                "name": name,
                "color": index % COLORS,
                "value": cell.value,
                "low": cell.low,
                "high": cell.high,
                "y": y + index * height,
                "height": height - 2,
                "length": round(x(cell.value) - left, 2),
                "from": x(cell.low),
                "to": x(cell.high),
            }
            for index, (name, cell) in enumerate(cells.items())
        ]
        label = f"{group.replace('_', ' ')} ({sizes[group]})"
        drawn.append({"label": label, "middle": y + len(bars) * height / 2, "bars": bars})
        y += len(bars) * height + gap
    return {
        "metric": metric,
        "names": list(next(iter(groups.values()))),
        "width": WIDTH,
        "height": y + 20,
        "left": left,
        "ticks": [{"at": x(value), "label": f"{value:g}"} for value in _place_ticks(highest)],
        "groups": drawn,
        "overlap": sum(sizes.values()) > queries,
    }


def _round_up(highest: float) -> float:
    """Return a round number that is at least as large, for the end of an axis in percent."""
    for end in (1, 2, 5, 10, 20, 25, 50):
        if highest <= end:
            return float(end)
    return float(min(100, math.ceil(highest / 20) * 20))


def _place_ticks(highest: float) -> list[float]:
    steps = {1: 4, 2: 4, 20: 4, 40: 4, 60: 3, 80: 4}.get(int(highest), 5)
    return [highest * step / steps for step in range(steps + 1)]

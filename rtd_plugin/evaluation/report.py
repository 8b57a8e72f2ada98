"""The report: one page with tables, charts and pictures, which needs no other file."""

import base64
import random
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from PIL import Image

from rtd_plugin.evaluation.benchmark import Benchmark
from rtd_plugin.evaluation.charts import group_bars, recall_plot
from rtd_plugin.evaluation.comparison import Comparison, ComparisonRow
from rtd_plugin.evaluation.labels import in_order, row_label, short_metric
from rtd_plugin.evaluation.per_query_metrics import compute_per_query_metrics
from rtd_plugin.files import write_text

SHOWN = 5  # images of each ranking
QUERIES = 6  # of each kind
DEEPEST = 50  # k of the recall plot
THUMBNAIL = 160  # pixels
FAVOURITE = "map_at_10"  # the metric that groups are compared by: CIRCO's server does so


def write_report(path: Path, comparison: Comparison, figures: Mapping[str, Any], seed: int = 0) -> None:
    """Write the page.

    Args:
        path: the file.
        comparison: what was found.
        figures: `comparison.to_dict()`, with what else the page says of it: `split`, `adapter`, `backbone`,
            `projection`, `preprocess`, `remarks`.
        seed: chooses the queries that are shown.
    """
    known = comparison.results[0].result.per_query is not None
    choice, sections = _sections(comparison, random.Random(seed))
    heading = " ".join(filter(None, (figures["benchmark"], figures["split"])))
    context = {
        "heading": heading,
        "figures": figures,
        "projection": Path(figures["projection"]).name,
        "tables": _tables(figures) if known else [],
        "plot": _plot(comparison) if known else None,
        "bars": _bars(comparison, figures) if known else None,
        "choice": choice,
        "sections": sections,
    }
    write_text(path, render("report.html", context))


def render(template: str, context: Mapping[str, Any], package: str = "rtd_plugin.evaluation") -> str:
    """Render a template of a package, which may extend `page.html` of this one; texts are escaped."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name, "templates") for name in (package, "rtd_plugin.evaluation")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template(template).render(**context, version=version("rtd-plugin"))


def thumbnail(image: Image.Image, name: str) -> dict[str, str]:
    """A picture as the page holds it: small, within the page, with its name."""
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    file = BytesIO()
    small.save(file, "jpeg", quality=80)
    return {"name": name, "data": f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"}


def _tables(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A table of all queries and one of each group's."""
    benchmark = figures["benchmark"]
    rows = in_order(figures)
    tuned = [row for row in rows if row["weights"]]
    whole = rows[0]["metrics"][benchmark]
    metrics = [name for name, value in whole.items() if not isinstance(value, Mapping)]
    groups = [name for name in whole if name not in metrics]
    tables = []
    for group in [None, *groups]:

        def cells(row: Mapping[str, Any], key: str, value: str | None, group: str | None = group) -> list[Any]:
            inside = [row[name][benchmark][group] if group else row[name][benchmark] for name in ("metrics", key)]
            return [
                {"value": inside[1][name][value] if value else inside[0][name], **_ends(inside[1][name])}
                for name in metrics
            ]

        lines = [
            {
                "kind": "tuned" if row["weights"] else "",
                "label": row_label(row, len(tuned)),
                "cells": cells(row, "intervals", None),
            }
            for row in rows
        ]
        for row in tuned:
            label = f"gain of {'tuning' if len(tuned) == 1 else row['name']}"
            lines.append({"kind": "gain", "label": label, "cells": cells(row, "gain", "difference")})
        title = f"{group.replace('_', ' ')} queries" if group else "all queries"
        tables.append({"title": title, "metrics": [short_metric(name) for name in metrics], "rows": lines})
    return tables


def _ends(interval: Mapping[str, float]) -> dict[str, float]:
    return {"low": interval["low"], "high": interval["high"]}


def _labels(comparison: Comparison, rows: Sequence[ComparisonRow]) -> list[str]:
    tuned = sum(row.weights is not None for row in comparison.results)
    return [row_label({"query": row.query, "weights": row.weights, "name": row.name}, tuned) for row in rows]


def _plot(comparison: Comparison) -> dict[str, Any]:
    rows = [*comparison.results, *comparison.baselines]
    deepest = min(DEEPEST, len(comparison.retrieval.names))
    curves = {}
    for label, row in zip(_labels(comparison, rows), rows, strict=True):
        groups = row.result.per_query.groups
        averages = comparison.retrieval.benchmark.averages_groups
        depths = range(1, deepest + 1)
        metrics = compute_per_query_metrics(
            row.result.rankings, None, groups, recall_at=depths, averages_groups=averages
        ).compute_metrics()
        curves[label] = [metrics[f"recall_at_{k}"] for k in depths]
    return recall_plot(curves, dashed=set(_labels(comparison, comparison.baselines)))


def _bars(comparison: Comparison, figures: Mapping[str, Any]) -> dict[str, Any] | None:
    """The groups, if there are any, by one metric."""
    benchmark, results = figures["benchmark"], figures["results"]
    whole = results[0]["metrics"][benchmark]
    groups = [name for name, value in whole.items() if isinstance(value, Mapping)]
    if not groups:
        return None
    metric = FAVOURITE if FAVOURITE in whole else next(iter(whole))
    labels = _labels(comparison, comparison.results)
    bars = {
        group: {
            label: {
                "value": row["metrics"][benchmark][group][metric],
                **_ends(row["intervals"][benchmark][group][metric]),
            }
            for label, row in zip(labels, results, strict=True)
        }
        for group in groups
    }
    of_queries = comparison.results[0].result.per_query.groups
    sizes = {group: sum(group in names for names in of_queries) for group in groups}
    return group_bars(short_metric(metric), bars, sizes, len(of_queries))


def _sections(comparison: Comparison, rng: random.Random) -> tuple[str, list[dict[str, Any]]]:
    """How queries were chosen to be shown, and they."""
    rows = comparison.results[:2]
    numbers = range(len(comparison.retrieval.queries))
    hits = [[0 < rank <= SHOWN for rank in row.result.rankings.first.tolist()] for row in rows]
    if len(rows) < 2 or rows[0].result.per_query is None:
        chosen = {"Queries": list(numbers)}
        choice = "Some queries, chosen at random."
    else:
        won = [number for number in numbers if hits[1][number] and not hits[0][number]]
        lost = [number for number in numbers if hits[0][number] and not hits[1][number]]
        choice = (
            f"Of {len(numbers)} queries, {len(won)} have their target among the first {SHOWN} only after tuning, and "
            f"{len(lost)} only before it. Of both kinds, {QUERIES} are chosen at random, or all if they are fewer."
        )
        chosen = {"Won by tuning": won, "Lost by tuning": lost}
        if not won and not lost:
            chosen = {"Neither won nor lost": list(numbers)}
    labels = _labels(comparison, rows)
    sections = []
    for title, candidates in chosen.items():
        sample = sorted(rng.sample(candidates, min(QUERIES, len(candidates))))
        queries = [_query(comparison, number, rows, labels) for number in sample]
        sections.append({"title": title if queries else f"{title}: none", "queries": queries})
    return choice, sections


def _query(comparison: Comparison, number: int, rows: Sequence[ComparisonRow], labels: Sequence[str]) -> dict[str, Any]:
    benchmark, names = comparison.retrieval.benchmark, comparison.retrieval.names
    query = comparison.retrieval.queries[number]
    shown = []
    for label, row in zip(labels, rows, strict=True):
        top = [names[place] for place in row.result.rankings.top[number].tolist()[:SHOWN] if place >= 0]
        found = [{"picture": _picture(benchmark, name), "hit": name in query.targets} for name in top]
        shown.append({"label": label, "rank": int(row.result.rankings.first[number]), "found": found})
    return {
        "condition": " · ".join(query.conditions),
        "reference": _picture(benchmark, query.reference),
        "target": _picture(benchmark, query.targets[0]) if query.targets else None,
        "rows": shown,
    }


def _picture(benchmark: Benchmark, name: str) -> dict[str, str]:
    return thumbnail(benchmark.image(name), name)

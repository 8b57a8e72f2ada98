"""The report: one page with tables, charts and images, which needs no other file."""

import base64
import random
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from PIL import Image

from rtd_plugin.evaluation.benchmark import Query
from rtd_plugin.evaluation.charts import draw_recall_plot
from rtd_plugin.evaluation.comparison import Comparison, ComparisonRow
from rtd_plugin.evaluation.comparison_table import ComparisonTable, shorten_metric, tabulate_comparison
from rtd_plugin.evaluation.metrics import PerQueryMetrics, hits_at
from rtd_plugin.files import write_text
from rtd_plugin.paths import name_projection

SHOWN = 5  # images of each ranking
QUERIES = 6  # in each section of queries
DEEPEST = 50  # k of the recall plot
THUMBNAIL = 160  # pixels
GROUP_METRIC = "map_at_10"  # the metric that groups are compared by, as on CIRCO's server; else the first metric


def write_report(path: Path, comparison: Comparison, figures: Mapping[str, Any], seed: int = 0) -> None:
    """Write the page.

    Args:
        path: the file.
        comparison: the results.
        figures: `comparison.to_dict()` with the other values of the page: `adapter`, `backbone`, `projection`,
            `preprocess`, `date`, `remarks`.
        seed: chooses the queries that are shown.

    Raises:
        RTDError: an image cannot be read, or the file cannot be written.
    """
    tables = tabulate_comparison(figures)
    selection, sections = _select_queries(comparison, random.Random(seed))
    wordings = _show_wordings(comparison, random.Random(seed))
    context = {
        "heading": " ".join(filter(None, (figures["title"], figures["split"]))),
        "figures": figures,
        "projection": name_projection(figures["projection"]),
        "tables": tables,
        "plot": _plot_recall(comparison) if tables else None,
        "bars": _compare_groups(comparison, tables) if len(tables) > 1 else None,
        "wordings": wordings,
        "selection": selection,
        "sections": sections,
    }
    write_text(path, render("report.html", context))


def render(template: str, context: Mapping[str, Any], package: str = "rtd_plugin.evaluation") -> str:
    """Return a page from a package's template, which may extend `page.html` of this one; text in it is escaped."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name, "templates") for name in (package, "rtd_plugin.evaluation")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    page = environment.get_template(template).render(**context, version=version("rtd-plugin"))
    return page.encode("utf-8", "backslashreplace").decode()  # names of files need not be UTF-8


def make_thumbnail(image: Image.Image, name: str) -> dict[str, str]:
    """Return an image as the page holds it: its `name`, and a small copy of it as the `data` URL."""
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    file = BytesIO()
    small.save(file, "jpeg", quality=80)
    return {"name": name, "data": f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"}


def _plot_recall(comparison: Comparison) -> dict[str, Any]:
    depths = range(1, min(DEEPEST, len(comparison.retrieval.names)) + 1)
    groups = [query.groups for query in comparison.retrieval.queries]
    curves = {}
    for row in (*comparison.results, *comparison.baselines):
        recall = {str(k): hits_at(row.result.target_ranks, k) for k in depths}
        metrics = PerQueryMetrics(recall, groups, comparison.retrieval.benchmark.averages_groups).compute_metrics()
        curves[row.label] = [metrics[str(k)] for k in depths]
    return draw_recall_plot(curves, dashed={row.label for row in comparison.baselines})


def _compare_groups(comparison: Comparison, tables: Sequence[ComparisonTable]) -> dict[str, Any]:
    """Compare the text encoders on each group by one metric, in bars."""
    metrics, queries = tables[0].metrics, comparison.retrieval.queries
    column = metrics.index(GROUP_METRIC) if GROUP_METRIC in metrics else 0
    labels = [row.label for row in comparison.results]
    groups: list[dict[str, Any]] = [
        {
            "title": table.title,
            "size": sum(table.group in query.groups for query in queries),
            "cells": {row.label: row.cells[column] for row in table.rows if row.label in labels},
        }
        for table in tables[1:]
    ]
    return {
        "metric": shorten_metric(metrics[column]),
        "labels": labels,
        "groups": groups,
        "highest": max(cell.high for group in groups for cell in group["cells"].values()) or 1,
        "overlap": sum(group["size"] for group in groups) > len(queries),
    }


def _select_queries(comparison: Comparison, rng: random.Random) -> tuple[str, list[dict[str, Any]]]:
    """Return a sentence on how queries were chosen, and the sections of the page that show them."""
    rows = comparison.results[:2]
    indices = range(len(comparison.retrieval.queries))
    hits = [[0 < rank <= SHOWN for rank in row.result.target_ranks.tolist()] for row in rows]
    if len(rows) < 2 or rows[0].result.per_query is None:
        sections = {"Queries": list(indices)}
        selection = "Some queries, chosen at random."
    else:
        won = [index for index in indices if hits[1][index] and not hits[0][index]]
        lost = [index for index in indices if hits[0][index] and not hits[1][index]]
        selection = (
            f"Of {len(indices)} queries, {len(won)} have their target among the first {SHOWN} only after tuning, and "
            f"{len(lost)} only before. Up to {QUERIES} of each are shown, chosen at random."
        )
        sections = {"Won by tuning": won, "Lost by tuning": lost}
        if not won and not lost:
            sections = {"Neither won nor lost": list(indices)}
    shown = []
    for title, candidates in sections.items():
        sample = sorted(rng.sample(candidates, min(QUERIES, len(candidates))))
        queries = [_show_query(comparison, index, rows) for index in sample]
        shown.append({"title": title if queries else f"{title}: none", "queries": queries})
    return selection, shown


def _show_query(comparison: Comparison, index: int, rows: Sequence[ComparisonRow]) -> dict[str, Any]:
    benchmark, query = comparison.retrieval.benchmark, comparison.retrieval.queries[index]

    def mark_image(name: str) -> str:
        return "hit" if name in query.targets else "wrong" if name in query.wrong else ""

    def show_ranking(row: ComparisonRow) -> dict[str, Any]:
        top = row.result.rankings.top[index].tolist()[:SHOWN]
        names = [comparison.retrieval.names[column] for column in top if column >= 0]
        images = [
            {"thumbnail": make_thumbnail(benchmark.image(name), name), "mark": mark_image(name)} for name in names
        ]
        return {"label": row.label, "rank": int(row.result.target_ranks[index]), "images": images}

    return {**_show_images(comparison, query), "rankings": [show_ranking(row) for row in rows]}


def _show_images(comparison: Comparison, query: Query) -> dict[str, Any]:
    benchmark = comparison.retrieval.benchmark
    images = {"reference": query.reference, "target": next(iter(query.targets), None)}
    return {
        "condition": " · ".join(query.conditions),
        **{key: name and make_thumbnail(benchmark.image(name), name) for key, name in images.items()},
    }


def _show_wordings(comparison: Comparison, rng: random.Random) -> dict[str, Any] | None:
    """Return some requests, each with its wordings and their ranks; None if no request has several wordings."""
    queries = comparison.retrieval.queries
    requests: dict[str, list[int]] = {}
    for index, query in enumerate(queries):
        requests.setdefault(query.request, []).append(index)
    several = [rows for request, rows in requests.items() if request and len(rows) > 1]
    if not several or not queries[0].targets:
        return None
    sample = sorted(rng.sample(several, min(QUERIES, len(several))))
    ranks = [row.result.target_ranks.tolist() for row in comparison.results]
    return {
        "labels": [row.label for row in comparison.results],
        "several": len(several),
        "requests": [
            {
                **_show_images(comparison, queries[rows[0]]),
                "wordings": [
                    {"condition": " · ".join(queries[row].conditions), "ranks": [column[row] for column in ranks]}
                    for row in rows
                ],
            }
            for rows in sample
        ],
    }

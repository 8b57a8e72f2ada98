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
from rtd_plugin.evaluation.charts import draw_group_bars, draw_recall_plot
from rtd_plugin.evaluation.comparison import Comparison, ComparisonRow
from rtd_plugin.evaluation.comparison_table import ComparisonTable, label_row, shorten_metric, tabulate_comparison
from rtd_plugin.evaluation.per_query_metrics import compute_per_query_metrics
from rtd_plugin.files import write_text

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
        figures: `comparison.to_dict()` and what else the page shows: `adapter`, `backbone`, `projection`,
            `preprocess`, `remarks`.
        seed: chooses the queries that are shown.

    Raises:
        RTDError: an image cannot be read, or the file cannot be written.
    """
    tables = tabulate_comparison(figures)
    selection, sections = _select_queries(comparison, random.Random(seed))
    context = {
        "heading": " ".join(filter(None, (figures["benchmark"], figures["split"]))),
        "figures": figures,
        "projection": Path(figures["projection"]).name,
        "tables": tables,
        "plot": _plot_recall(comparison) if tables else None,
        "bars": _plot_groups(comparison, tables) if len(tables) > 1 else None,
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
    return environment.get_template(template).render(**context, version=version("rtd-plugin"))


def make_thumbnail(image: Image.Image, name: str) -> dict[str, str]:
    """Return a picture as the page holds it: its `name`, and a small copy of it as the `data` URL."""
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    file = BytesIO()
    small.save(file, "jpeg", quality=80)
    return {"name": name, "data": f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"}


def _label_rows(comparison: Comparison, rows: Sequence[ComparisonRow]) -> list[str]:
    tuned = sum(row.weights is not None for row in comparison.results)
    return [label_row({"query": row.query, "weights": row.weights, "name": row.name}, tuned) for row in rows]


def _plot_recall(comparison: Comparison) -> dict[str, Any]:
    rows = [*comparison.results, *comparison.baselines]
    depths = range(1, min(DEEPEST, len(comparison.retrieval.names)) + 1)
    averages_groups = comparison.retrieval.benchmark.averages_groups
    groups = [query.groups for query in comparison.retrieval.queries]
    curves = {}
    for label, row in zip(_label_rows(comparison, rows), rows, strict=True):
        per_query = compute_per_query_metrics(
            row.result.rankings, None, groups, recall_at=depths, averages_groups=averages_groups
        )
        metrics = per_query.compute_metrics()
        curves[label] = [metrics[f"recall_at_{k}"] for k in depths]
    return draw_recall_plot(curves, dashed=set(_label_rows(comparison, comparison.baselines)))


def _plot_groups(comparison: Comparison, tables: Sequence[ComparisonTable]) -> dict[str, Any]:
    """Compare the text encoders on each group by one metric."""
    metrics = tables[0].metrics
    column = metrics.index(GROUP_METRIC) if GROUP_METRIC in metrics else 0
    encoders = _label_rows(comparison, comparison.results)
    bars = {
        table.group: {row.label: row.cells[column] for row in table.rows if row.label in encoders}
        for table in tables
        if table.group is not None
    }
    queries = comparison.retrieval.queries
    sizes = {group: sum(group in query.groups for query in queries) for group in bars}
    return draw_group_bars(shorten_metric(metrics[column]), bars, sizes, len(queries))


def _select_queries(comparison: Comparison, rng: random.Random) -> tuple[str, list[dict[str, Any]]]:
    """Return a sentence on how queries were chosen, and the sections of the page that show them."""
    rows = comparison.results[:2]
    indices = range(len(comparison.retrieval.queries))
    hits = [[0 < rank <= SHOWN for rank in row.result.rankings.first.tolist()] for row in rows]
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
    labels = _label_rows(comparison, rows)
    shown = []
    for title, candidates in sections.items():
        sample = sorted(rng.sample(candidates, min(QUERIES, len(candidates))))
        queries = [_show_query(comparison, index, rows, labels) for index in sample]
        shown.append({"title": title if queries else f"{title}: none", "queries": queries})
    return selection, shown


def _show_query(
    comparison: Comparison, index: int, rows: Sequence[ComparisonRow], labels: Sequence[str]
) -> dict[str, Any]:
    benchmark, names = comparison.retrieval.benchmark, comparison.retrieval.names
    query = comparison.retrieval.queries[index]
    rankings = []
    for label, row in zip(labels, rows, strict=True):
        top = [names[column] for column in row.result.rankings.top[index].tolist()[:SHOWN] if column >= 0]
        images = [{"picture": _show_image(benchmark, name), "hit": name in query.targets} for name in top]
        rankings.append({"label": label, "rank": int(row.result.rankings.first[index]), "images": images})
    return {
        "condition": " · ".join(query.conditions),
        "reference": _show_image(benchmark, query.reference),
        "target": _show_image(benchmark, query.targets[0]) if query.targets else None,
        "rankings": rankings,
    }


def _show_image(benchmark: Benchmark, name: str) -> dict[str, str]:
    return make_thumbnail(benchmark.image(name), name)

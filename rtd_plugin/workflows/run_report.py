"""The page of a run, which says whether tuning helped: `report.html` in its folder."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rtd_plugin.evaluation.charts import draw_step_plot
from rtd_plugin.evaluation.comparison_table import shorten_metric
from rtd_plugin.evaluation.report import render
from rtd_plugin.files import write_text
from rtd_plugin.paths import name_projection
from rtd_plugin.printable import count_noun
from rtd_plugin.training.metrics import METRICS_FILE, read_validation
from rtd_plugin.training.rate_trials import trial_folder
from rtd_plugin.training.run import Run
from rtd_plugin.workflows.model_card import list_gains

REPORT_FILE = "report.html"


def write_run_report(run: Run, results: Mapping[str, Any]) -> None:
    """Write the page of a finished run, whole or not at all.

    Args:
        run: the run.
        results: what `results.json` holds, with a verdict.

    Raises:
        RTDError: it cannot be written.
    """
    validation, evaluation = results["validation"], results["evaluation"]
    select = run.recipe.validation.select if run.recipe.validation else None
    context = {
        **results,
        "heading": run.folder.absolute().name,
        "backbone": run.recipe.backbone.name,
        "projection": name_projection(run.recipe.projection),
        "triplets": count_noun(results["triplets"], "triplet"),
        "recipe": run.recipe,
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "metric": shorten_metric(select) if select else None,
        "measured": validation["measured"] if validation else "the recipe's validation",
        "search_steps": list_search_steps(results["search"]) if results["search"] else [],
        "search_rows": tabulate_search(results["search"]) if results["search"] else [],
        "plot": _plot_validation(run, results["search"], select) if select else None,
        "gains": list_gains(evaluation) if evaluation else [],
    }
    write_text(run.folder / REPORT_FILE, render("run.html", context, "rtd_plugin.workflows"))


def list_search_steps(search: Mapping[str, Any]) -> list[int]:
    """Return after how many steps the trials of a search were compared, ascending."""
    return sorted({trial["steps"] for trial in search["trials"]})


def tabulate_search(search: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each learning rate of a search, ascending: its `rate`, whether it was `chosen`, and its `cells`.

    Args:
        search: as `rtd_plugin.training.rate_search.describe_search` gives it.
    """
    values = {(trial["learning_rate"], trial["steps"]): trial["value"] for trial in search["trials"]}

    def show(key: tuple[float, int]) -> str:
        if key not in values:
            return ""
        return "diverged" if values[key] is None else f"{values[key]:.1f}"

    return [
        {
            "rate": f"{rate:g}",
            "chosen": rate == search["learning_rate"],
            "cells": [show((rate, steps)) for steps in list_search_steps(search)],
        }
        for rate in sorted({rate for rate, _ in values})
    ]


def _plot_validation(run: Run, search: Mapping[str, Any] | None, select: str) -> dict[str, Any] | None:
    """Draw the metric that selects by step, for the run and the other learning rates; None if it can be negative."""
    rates = (
        sorted({trial["learning_rate"] for trial in search["trials"]} - {run.recipe.optimizer.rate}) if search else []
    )
    curves = {f"{run.recipe.optimizer.rate:g}": read_validation(run.folder / METRICS_FILE, select)}
    for rate in rates:
        curves[f"{rate:g}"] = read_validation(trial_folder(run.folder, rate) / METRICS_FILE, select)
    if min(value for points in curves.values() for _, value in points) < 0:
        return None
    return draw_step_plot(curves, dashed={f"{rate:g}" for rate in rates})

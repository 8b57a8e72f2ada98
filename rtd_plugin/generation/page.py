"""The page of a set of triplets: its statistics as tables and histograms."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rtd_plugin.evaluation.report import render
from rtd_plugin.files import write_text


def write_page(path: Path, name: str, statistics: Mapping[str, Any]) -> None:
    """Write the page as HTML, in the layout of the retrieval report.

    Args:
        path: the file to write.
        name: the heading, the name of the triplet file.
        statistics: as `compute_statistics` returns them.

    Raises:
        RTDError: the file cannot be written.
    """
    context = {
        "name": name,
        "statistics": statistics,
        "opening_rows": [(row["words"], row["count"]) for row in statistics["openings"]],
        "opening_of_two_rows": [(row["words"], row["count"]) for row in statistics["openings_of_two"]],
        "edit_rows": [(row["from"] or "+", row["to"] or "–", row["count"]) for row in statistics["edits"]],
        "nearest_rows": [(row["condition"], row["real"], row["similarity"]) for row in statistics["nearest"]],
        "real_rows": [
            (
                real,
                *(row[key] for key in ("conditions", "length", "openings", "vocabulary")),
                row["mean_words"],
                row["mean_words_real"],
                f"{100 * row['words_known']:.1f} %",
            )
            for real, row in statistics["real"].items()
        ],
    }
    write_text(path, render("statistics.html", context, package="rtd_plugin.generation"))

"""Searches a folder of images with one composed query, before and after tuning."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtd_plugin.errors import UsageError
from rtd_plugin.evaluation.comparison import compare
from rtd_plugin.evaluation.report import make_thumbnail, render
from rtd_plugin.evaluation.retrieval import DEPTH, Retrieval, check_queries
from rtd_plugin.evaluation.search import Search
from rtd_plugin.files import write_text
from rtd_plugin.paths import CommandLineText
from rtd_plugin.progress import Progress, no_progress
from rtd_plugin.workflows.loading import ModelOptions, load_models

if TYPE_CHECKING:
    from typing_extensions import Unpack

_log = logging.getLogger(__name__)


def search(
    image: str | Path,
    condition: str,
    images: str | Path,
    *,
    image_roots: Sequence[str | Path] = (),
    skip_unreadable: bool = True,
    top: int = 10,
    page: str | Path | None = None,
    progress: Progress = no_progress,
    **model_options: Unpack[ModelOptions],
) -> dict[str, Any]:
    """Find the images of a folder that look like an image changed as a condition says, as `rtd-plugin search` does.

    Args:
        image: the reference image.
        condition: the change, in words.
        images: the folder to search, with its subfolders.
        image_roots: folders that links in `images` may lead to.
        skip_unreadable: whether images that cannot be read are left out, instead of being an error.
        top: how many images to return, 1 to 50.
        page: file to write a page with pictures to.
        progress: shows how far the work is, see `rtd_plugin.progress`.
        **model_options: as of `evaluate`.

    Returns:
        `results` has the text encoders, the pre-trained one first, each with its best `images` and their scores (cosine
        similarities); the rest describes the search.

    Raises:
        RTDError: a file is missing, broken, or does not fit the other files.
        UsageError: an option is missing or wrong.

    Example:
        ```python
        results = search("shoe.jpg", "is red and has no laces", "catalogue", weights=["runs/mine"])
        results["results"][1]["images"][0]["image"]
        ```
    """
    if not 1 <= top <= DEPTH:
        raise UsageError(f"top: {top} is not from 1 to {DEPTH}")
    benchmark = Search.model_validate(
        {
            "data": CommandLineText(images),
            "image_roots": tuple(map(CommandLineText, image_roots)),
            "reference": CommandLineText(image),
            "condition": condition,
            "skip_unreadable": skip_unreadable,
        }
    )
    check_queries(benchmark, benchmark.queries(), benchmark.gallery())
    models = load_models(**model_options)
    with progress("Encoding images") as advance:
        retrieval = Retrieval(benchmark, models.adapter, models.images, models.projection, advance)
    for remark in benchmark.remarks():
        _log.warning("%s.", remark)
    rows = []
    for row in compare(retrieval, models.tower, models.tuned, baselines=False).results:
        best = zip(row.result.rankings.top[0].tolist()[:top], row.result.rankings.scores[0].tolist(), strict=False)
        rows.append(
            {
                "weights": str(row.weights) if row.weights else None,
                "name": row.name,
                "label": row.label,
                "images": [{"image": retrieval.names[index], "score": score} for index, score in best if index >= 0],
            }
        )
    results = {
        "reference": str(image),
        "condition": condition,
        "gallery": len(retrieval.names),
        "unreadable": retrieval.unreadable,
        "remarks": [*retrieval.remarks, *benchmark.remarks()],
        "page": str(page) if page is not None else None,
        "results": rows,
        **models.to_dict(),
    }
    if page is not None:
        _write_page(Path(page), benchmark, results)
    return results


def _write_page(page: Path, benchmark: Search, results: dict[str, Any]) -> None:
    def show(name: str) -> dict[str, str]:
        return make_thumbnail(benchmark.image(name), name)

    rankings = [
        {
            "label": row["label"],
            "images": [{"picture": show(image["image"]), "score": image["score"]} for image in row["images"]],
        }
        for row in results["results"]
    ]
    context = {
        "results": results,
        "folder": str(benchmark.data),
        "reference": show(benchmark.reference_name),
        "projection": Path(results["projection"]).name,
        "rankings": rankings,
    }
    write_text(page, render("search.html", context))

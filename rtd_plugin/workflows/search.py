"""Searches images with composed queries, before and after tuning."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtd_plugin.clip.tower import TextTower
from rtd_plugin.errors import UsageError
from rtd_plugin.evaluation.comparison import list_encoders
from rtd_plugin.evaluation.encoding import check_text
from rtd_plugin.evaluation.image_files import open_image, turn_upright
from rtd_plugin.evaluation.report import make_thumbnail, render
from rtd_plugin.files import write_text
from rtd_plugin.paths import CommandLineText, name_projection
from rtd_plugin.progress import Progress, no_progress
from rtd_plugin.regular_files import resolve_links
from rtd_plugin.search.galleries import IndexGallery, MemoryGallery, SearchedGallery
from rtd_plugin.search.gallery_store import Match
from rtd_plugin.search.image_folder import ImageFolder
from rtd_plugin.search.searcher import Searcher
from rtd_plugin.workflows.index import open_index
from rtd_plugin.workflows.loading import BackboneOptions, ModelOptions, Models, load_models

if TYPE_CHECKING:
    from typing_extensions import Unpack

MOST = 50  # images that a search returns

_log = logging.getLogger(__name__)


def load(
    run: str | Path | None = None,
    images: str | Path | None = None,
    *,
    index: str | Path | None = None,
    image_roots: Sequence[str | Path] = (),
    progress: Progress = no_progress,
    **options: Unpack[BackboneOptions],
) -> Searcher:
    """Load a searcher, for any number of queries.

    >>> import rtd_plugin
    >>> searcher = rtd_plugin.load("runs/mine", images="catalogue")  # doctest: +SKIP
    >>> for match in searcher.search("shoe.jpg", "is red and has no laces", k=5):  # doctest: +SKIP
    ...     print(match.image, match.score)

    Args:
        run: a tuned text encoder: a run's folder, or a file in any layout. None: the pre-trained one, of `options`.
        images: a folder of images to search, with its subfolders; they are encoded now, unless the cache has them.
        index: an index to search instead, which `rtd-plugin index` built.
        image_roots: folders that links in `images` may lead to.
        progress: shows the progress, see `rtd_plugin.progress`.
        **options: `adapter`, `projection`, `model`, `pretrained`, `checkpoint`, `recipe`, `preprocess`, `cache`,
            `workers`, `device`; see `rtd_plugin.workflows.loading.BackboneOptions`. A run names the first five.

    Returns:
        A searcher with the tuned text encoder; its `frozen` is the same with the pre-trained one.

    Raises:
        RTDError: a file is missing, broken, or does not fit the other files.
        UsageError: an option is missing or wrong.
    """
    open_gallery = choose_gallery(images, index, image_roots)
    models = load_models(weights=[run] if run is not None else [], **options)
    gallery = open_gallery(models, progress) if open_gallery is not None else None
    towers = [load_tower() for load_tower in models.tuned.values()]
    return build_searcher(models, towers[0] if towers else models.tower, gallery)


def search(
    image: str | Path,
    condition: str,
    images: str | Path | None = None,
    *,
    index: str | Path | None = None,
    where: str | None = None,
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
        index: an index to search instead, which `rtd-plugin index` built.
        where: a condition on the index's columns, in SQL.
        image_roots: folders that links in `images` may lead to.
        skip_unreadable: whether images that cannot be read are left out, instead of being an error.
        top: how many images to return, 1 to 50.
        page: file to write a page with images to.
        progress: shows the progress, see `rtd_plugin.progress`.
        **model_options: as of `evaluate`.

    Returns:
        `results` has the text encoders, the pre-trained one first, each with its best `images` and their scores (cosine
        similarities); the rest describes the search.

    Raises:
        RTDError: a file is missing, broken, or does not fit the other files.
        UsageError: an option is missing or wrong.
    """
    if not 1 <= top <= MOST:
        raise UsageError(f"top: {top} is not between 1 and {MOST}")
    check_text(condition)
    open_gallery = choose_gallery(images, index, image_roots, skip_unreadable)
    if open_gallery is None:
        raise UsageError("nothing to search: pass --images or --index")
    models = load_models(**model_options)
    gallery = open_gallery(models, progress)
    reference = build_searcher(models, models.tower, gallery).encode_images(image, normalize=False)
    rows = []
    for path, name, label, load_tower in list_encoders(models.tower, models.tuned):
        query = build_searcher(models, load_tower(), gallery).compose(reference, condition)
        (matches,) = gallery.search(query.unsqueeze(0), top, [gallery.find_name(Path(image))], where)
        rows.append(
            {
                "weights": str(path) if path else None,
                "name": name,
                "label": label,
                "images": [
                    {"image": match.image, "score": match.score, **_collect_columns(match)} for match in matches
                ],
            }
        )
    results = {
        "reference": str(image),
        "condition": condition,
        "gallery": len(gallery),
        "unreadable": gallery.unreadable if isinstance(gallery, MemoryGallery) else {},
        "remarks": gallery.remarks() if isinstance(gallery, MemoryGallery) else [],
        "page": str(page) if page is not None else None,
        "results": rows,
        **models.to_dict(),
    }
    if page is not None:
        _write_page(Path(page), gallery, results)
    return results


def _collect_columns(match: Match) -> dict[str, Any]:
    return {"columns": dict(match.columns)} if match.columns else {}


def choose_gallery(
    images: str | Path | None, index: str | Path | None, image_roots: Sequence[str | Path], skip_unreadable: bool = True
) -> Callable[[Models, Progress], MemoryGallery | IndexGallery] | None:
    """Return a function that opens a folder or an index; a wrong one is found before models are loaded."""
    if images is not None and index is not None:
        raise UsageError("both a folder and an index: pass either --images or --index")
    if index is not None:
        store = open_index(index)
        roots = [Path(root) for root in image_roots]
        return lambda models, _: IndexGallery(store, models.images, roots)
    if images is None:
        return None
    folder = _make_folder(images, image_roots, skip_unreadable)
    return lambda models, progress: _encode_folder(models, folder, progress)


def _make_folder(images: str | Path, image_roots: Sequence[str | Path], skip_unreadable: bool = True) -> ImageFolder:
    """Return a folder of images, after listing them, so that a wrong one is found before models are loaded."""
    roots = tuple(map(CommandLineText, image_roots))
    values = {"data": CommandLineText(images), "image_roots": roots, "skip_unreadable": skip_unreadable}
    folder = ImageFolder.model_validate(values)
    folder.gallery()
    return folder


def _encode_folder(models: Models, folder: ImageFolder, progress: Progress) -> MemoryGallery:
    with progress("Encoding images") as advance:
        gallery = MemoryGallery(folder, models.images, advance)
    for remark in gallery.remarks():
        _log.warning("%s.", remark)
    return gallery


def build_searcher(models: Models, tower: TextTower, gallery: SearchedGallery | None) -> Searcher:
    device = models.images.device
    return Searcher(
        models.adapter, models.images, models.projection.to(device), tower.to(device), models.tower, gallery
    )


def _write_page(page: Path, gallery: SearchedGallery, results: dict[str, Any]) -> None:
    rankings = [
        {
            "label": row["label"],
            "images": [
                {"thumbnail": make_thumbnail(gallery.image(match["image"]), match["image"]), "score": match["score"]}
                for match in row["images"]
            ],
        }
        for row in results["results"]
    ]
    reference = Path(results["reference"])
    context = {
        "results": results,
        "gallery": gallery.title,
        "reference": make_thumbnail(
            turn_upright(open_image(reference)), gallery.find_name(reference) or str(resolve_links(reference))
        ),
        "projection": name_projection(results["projection"]),
        "rankings": rankings,
    }
    write_text(page, render("search.html", context))

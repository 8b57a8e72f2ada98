"""Builds an index of a folder of images, and opens it."""

from __future__ import annotations

import functools
import json
import logging
import os
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rtd_plugin.contract import plugins
from rtd_plugin.errors import UsageError, require_extra
from rtd_plugin.evaluation.image_features import ImageFeatures, name_images
from rtd_plugin.paths import CommandLineText
from rtd_plugin.printable import count_noun
from rtd_plugin.progress import Progress, no_progress
from rtd_plugin.ray_tasks import RayTasks
from rtd_plugin.search.gallery_store import GalleryStore
from rtd_plugin.search.image_folder import ImageFolder
from rtd_plugin.workflows.loading import ModelOptions, load_models

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from rtd_plugin.search.indexing import EncodedBlock

QUERIES, DEPTH = 100, 10  # for recall@10 of the approximate search

_log = logging.getLogger(__name__)


def build_index(
    images: str | Path,
    output: str | Path,
    *,
    columns: str | Path | None = None,
    approximate: bool | None = None,
    image_roots: Sequence[str | Path] = (),
    skip_unreadable: bool = True,
    ray: str | None = None,
    progress: Progress = no_progress,
    **model_options: Unpack[ModelOptions],
) -> dict[str, Any]:
    """Build or update an index of a folder of images, as `rtd-plugin index` does.

    Args:
        images: the folder, with its subfolders.
        output: the index: a folder or URI that ends in `.lance`, or in another plugin's format.
        columns: CSV or Parquet with a column `image`, and others to filter by.
        approximate: whether searching may miss images; None: if there are more than a million.
        image_roots: folders that links in `images` may lead to.
        skip_unreadable: whether images that cannot be read are left out, instead of being an error.
        ray: the address of a Ray cluster whose machines encode images, or "auto" for the one that this machine belongs
            to; they have to see the same files.
        progress: shows the progress, see `rtd_plugin.progress`.
        **model_options: as of `evaluate`; of tuned text encoders the first names the backbone.

    Returns:
        `images`, `added`, `removed` and `unreadable`; `recall_at_10` of the approximate search against the exact one in
        percent, None if it is exact; `seconds`.

    Raises:
        RTDError: a file cannot be read, or the index cannot be written.
        UsageError: an option is wrong, or the existing index was built with other settings.
    """
    start = time.monotonic()
    store = plugins.find_gallery_store(str(output))  # names the extra that it lacks
    with require_extra("index", "an index"):
        from rtd_plugin.search.indexing import APPROXIMATE_FROM, update_index  # imports pyarrow, a search does not
    roots = tuple(map(CommandLineText, image_roots))
    values = {"data": CommandLineText(images), "image_roots": roots, "skip_unreadable": skip_unreadable}
    folder = ImageFolder.model_validate(values)
    folder.gallery()  # a wrong folder is found before models are loaded
    cluster = RayTasks(ray) if ray is not None else None
    models = load_models(**model_options)
    table = Path(columns) if columns else None
    encode_blocks = partial(_encode_on_cluster, cluster, folder, model_options) if cluster else None
    with progress("Encoding images") as advance:
        change = update_index(store, folder, models.images, models.tower.features, table, encode_blocks, advance)
    if change.unreadable:
        name, reason = next(iter(change.unreadable.items()))
        left_out = f"{count_noun(len(change.unreadable), 'unreadable image')} left out"
        _log.warning("%s: %s (%s: %s).", left_out, name_images(change.unreadable), name, reason)
    with progress("Preparing the index"):
        store.finish(change.images > APPROXIMATE_FROM if approximate is None else approximate)
    return {
        "index": str(output),
        "images": change.images,
        "added": change.added,
        "removed": change.removed,
        "unreadable": dict(change.unreadable),
        "recall_at_10": measure_recall(store) if store.is_approximate else None,
        "seconds": round(time.monotonic() - start, 1),
    }


def _encode_on_cluster(
    cluster: RayTasks, folder: ImageFolder, model_options: ModelOptions, blocks: Sequence[Sequence[str]]
) -> Iterable[EncodedBlock]:
    options = json.dumps(model_options, default=str)
    return cluster.map(_encode_elsewhere, blocks, (os.getcwd(), options, folder), gpus=True)


def _encode_elsewhere(shared: tuple[str, str, ImageFolder], block: Sequence[str]) -> EncodedBlock:
    from rtd_plugin.search.indexing import encode_block

    current, options, folder = shared
    os.chdir(current)  # what paths in options are relative to
    return encode_block(_load_images(options), folder, block)


@functools.lru_cache(maxsize=1)
def _load_images(options: str) -> ImageFeatures:
    """Load the image tower once for all blocks that this process encodes."""
    return load_models(**json.loads(options)).images


def measure_recall(store: GalleryStore) -> float:
    """Return how many of the exact search's ten best images the approximate search finds, in percent.

    Queries are a hundred images of the index with noise, so that they are not in it.
    """
    rng = np.random.default_rng(0)
    names = store.read_rows(["image"])["image"].to_pylist()
    chosen = [names[row] for row in rng.permutation(len(names))[:QUERIES]]
    vectors = store.read_rows(["image", "vector"], chosen)["vector"].combine_chunks().flatten().to_numpy()
    shared = 0
    queries = vectors.reshape(len(chosen), -1)
    queries = queries + rng.normal(size=queries.shape, scale=0.5 * queries.shape[1] ** -0.5).astype(np.float32)
    for query in queries / np.linalg.norm(queries, axis=1, keepdims=True):
        exact, approximate = (
            {match.image for match in store.search(query, DEPTH, None, exact)} for exact in (True, False)
        )
        shared += len(exact & approximate)
    return round(100 * shared / (len(chosen) * min(DEPTH, len(names))), 1)


def open_index(path: str | Path) -> GalleryStore:
    """Return an index that exists.

    Raises:
        UsageError: there is none.
    """
    store = plugins.find_gallery_store(str(path))
    if store.read_settings() is None:
        raise UsageError(f"{path}: no index here: build it with `rtd-plugin index`")
    return store

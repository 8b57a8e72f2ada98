"""Build an index of a folder of images, and update it after changes in the folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import torch
from pyarrow import csv, parquet
from torch import Tensor
from torch.nn import functional as F

from rtd_plugin.errors import RTDError, UsageError
from rtd_plugin.evaluation.image_features import ImageFeatures, UnreadableImages
from rtd_plugin.progress import Advance, ignore_progress
from rtd_plugin.regular_files import resolve_links
from rtd_plugin.search.gallery_store import GalleryStore, check_tower
from rtd_plugin.search.image_folder import ImageFolder

EncodedBlock: TypeAlias = tuple[Tensor, Mapping[str, str]]
EncodeBlocks: TypeAlias = Callable[[Sequence[Sequence[str]]], Iterable[EncodedBlock]]
"""Encodes blocks of images, in order; see `encode_block`."""

ROWS = 4096  # rows that are added or removed at a time: what a killed process loses
BUILT_IN_COLUMNS = ("image", "stamp", "vector")
APPROXIMATE_FROM = 1_000_000  # rows


class _Unkept(ImageFolder):
    """A folder whose features are not kept in the cache as well."""

    def stamp(self, name: str) -> str | None:
        return None


@dataclass(frozen=True)
class IndexChange:
    """The result of an update.

    Attributes:
        images: in the index now.
        added, removed: how many; an image that changed counts as both.
        unreadable: why images were left out, by name.
    """

    images: int
    added: int
    removed: int
    unreadable: Mapping[str, str]


def read_columns(file: Path, names: Sequence[str]) -> pa.Table:
    """Return a row of the user's columns for each image, nulls for images that the file does not have.

    Args:
        file: CSV or Parquet with a column `image`, the images' paths in their folder.
        names: of the images.

    Raises:
        RTDError: the file cannot be read, has no column `image`, or an image twice.
    """
    try:
        table = parquet.read_table(file) if file.suffix == ".parquet" else csv.read_csv(file)
    except (OSError, pa.ArrowException) as error:
        raise RTDError(f"{file}: not a readable CSV or Parquet file ({str(error).splitlines()[0]})") from error
    if "image" not in table.column_names or {"stamp", "vector"} & set(table.column_names):
        raise RTDError(f"{file}: needs a column `image`, and none that is called `stamp` or `vector`")
    table = table.set_column(table.column_names.index("image"), "image", table["image"].cast(pa.string()))
    if pc.count_distinct(table["image"]).as_py() < len(table):
        raise RTDError(f"{file}: an image is in it more than once")
    rows = pa.table({"image": pa.array(names, pa.string())}).join(table, "image", join_type="left outer")
    return rows.sort_by("image").combine_chunks()


def update_index(
    store: GalleryStore,
    folder: ImageFolder,
    images: ImageFeatures,
    size: int,
    columns: Path | None = None,
    encode_blocks: EncodeBlocks | None = None,
    advance: Advance = ignore_progress,
) -> IndexChange:
    """Make an index equal to a folder: add new images, remove missing ones, and replace changed ones.

    Features of unchanged images are kept, even if their columns changed. An update that was stopped continues where it
    stopped.

    Args:
        store: the index, which may be empty.
        folder: the images.
        images: encodes them.
        size: of a feature, D.
        columns: a CSV or Parquet file, see `read_columns`; None to have no columns.
        encode_blocks: encodes elsewhere, such as on other machines; None for here.
        advance: called with how many of the images that need encoding are done.

    Raises:
        UsageError: the index was built with another image tower, or has other columns.
        RTDError: a file cannot be read.
    """
    unreadable: dict[str, str] = {}
    files: dict[str, str] = {}
    for name in folder.gallery():
        try:
            files[name] = folder.stamp(name) or ""
        except (OSError, RTDError) as error:
            if not folder.skip_unreadable:
                raise
            unreadable[name] = str(error)
    names = sorted(files)
    rows = read_columns(columns, names) if columns is not None else pa.table({"image": pa.array(names, pa.string())})
    vector = pa.list_(pa.float32(), size)
    schema = pa.schema([("image", pa.string()), ("stamp", pa.string()), ("vector", vector), *list(rows.schema)[1:]])
    check_index(store, images, folder, schema)
    # Values of columns are part of the stamp: what follows the last line break.
    values = rows.drop_columns(["image"]).to_pylist() if len(rows.column_names) > 1 else [None] * len(rows)
    stamps = {
        name: f"{files[name]}\n{json.dumps(value, default=str) if value else ''}"
        for name, value in zip(rows["image"].to_pylist(), values, strict=True)
    }
    listed = store.read_rows(["image", "stamp"])
    before = dict(zip(listed["image"].to_pylist(), listed["stamp"].to_pylist(), strict=True))
    changed = [name for name in names if before.get(name) != stamps[name]]
    moved = [name for name in changed if name in before and before[name].rpartition("\n")[0] == files[name]]
    new = sorted(set(changed) - set(moved))
    index_of = {name: row for row, name in enumerate(rows["image"].to_pylist())}

    def make_rows(block: Sequence[str], vectors: Any) -> pa.Table:
        block_rows = rows.take([index_of[name] for name in block])
        table = pa.table(
            [block_rows["image"], pa.array([stamps[name] for name in block]), vectors], names=list(BUILT_IN_COLUMNS)
        )
        for name in block_rows.column_names[1:]:
            table = table.append_column(name, block_rows[name])
        return table.cast(schema)

    gone = sorted(set(before) - set(names))
    _apply_in_blocks(gone + [name for name in new if name in before], store.remove)
    for start in range(0, len(moved), ROWS):
        block = moved[start : start + ROWS]
        previous = store.read_rows(["image", "vector"], block)
        replaced = make_rows(previous["image"].to_pylist(), previous["vector"].combine_chunks())
        store.remove(block)
        store.add(replaced)
    blocks = [new[start : start + ROWS] for start in range(0, len(new), ROWS)]
    done = 0
    if encode_blocks is None:
        results: Iterable[EncodedBlock] = (
            encode_block(images, folder, block, lambda count, _, note="": advance(done + count, len(new), note))
            for block in blocks
        )
    else:
        results = encode_blocks(blocks)
    for block, (encoded, broken) in zip(blocks, results, strict=True):
        unreadable |= broken
        readable = [name for name in block if name not in broken]
        if readable:
            flat = pa.array(F.normalize(encoded, dim=-1).reshape(-1).numpy())
            store.add(make_rows(readable, pa.FixedSizeListArray.from_arrays(flat, size)))
        done += len(block)
        advance(done, len(new))
    return IndexChange(
        images=len(names) - len(unreadable.keys() & files.keys()),
        added=len(changed) - len(unreadable.keys() & files.keys()),
        removed=len(gone) + len(set(changed) & set(before)),
        unreadable=unreadable,
    )


def encode_block(
    images: ImageFeatures, folder: ImageFolder, block: Sequence[str], advance: Advance = ignore_progress
) -> EncodedBlock:
    """Return features (N, D) of the images of a block that can be read, and what is wrong with the others, by name.

    Raises:
        UnreadableImages: the folder does not skip unreadable images.
    """
    source = _Unkept.model_validate(folder.model_dump())
    try:
        features, unreadable = images.encode_readable(source, block, advance)
        return features[:], unreadable
    except UnreadableImages as error:
        if not folder.skip_unreadable:
            raise
        return torch.empty(0), {name: error.reasons.get(name, str(error)) for name in block}


def check_index(store: GalleryStore, images: ImageFeatures, folder: ImageFolder, schema: pa.Schema) -> None:
    """Create an empty index, or check an existing one."""
    settings = store.read_settings()
    columns = {field.name: str(field.type) for field in schema if field.name not in BUILT_IN_COLUMNS}
    expected = {"tower": images.digest, "folder": str(resolve_links(folder.data)), "columns": columns}
    if settings is None:
        store.create(schema, expected)
        return
    check_tower(settings, images)
    for key in ("folder", "columns"):
        if settings.get(key) != expected[key]:
            built = f"the index was built with the {key} {settings.get(key)}, not {expected[key]}"
            raise UsageError(f"{built}: name another with --output")


def _apply_in_blocks(names: Sequence[str], apply: Callable[[Sequence[str]], None]) -> None:
    for start in range(0, len(names), ROWS):
        apply(names[start : start + ROWS])

"""Galleries in a folder of Parquet files, searched exactly with faiss in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtd_plugin.contract.markers import hookimpl
from rtd_plugin.errors import RTDError, UsageError, require_extra
from rtd_plugin.files import write_atomically, write_text
from rtd_plugin.regular_files import read_json
from rtd_plugin.search.gallery_store import GalleryStore, Match

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

SETTINGS = "settings.json"


class FaissStore(GalleryStore):
    """A folder with a file for each block of rows that was added; all of them are loaded for a search.

    Args:
        path: a folder that ends in `.faiss`.
    """

    def __init__(self, path: str):
        with require_extra("faiss", "an index in faiss"):
            import faiss  # noqa: F401  # before images are encoded for it
            import pyarrow  # noqa: F401
        self.folder = Path(path)

    def read_settings(self) -> Mapping[str, Any] | None:
        return read_json(self.folder / SETTINGS) if (self.folder / SETTINGS).is_file() else None

    def create(self, schema: pa.Schema, settings: Mapping[str, Any]) -> None:
        if self.folder.exists() and any(self.folder.iterdir()):
            raise RTDError(f"{self.folder}: holds other files: name a new folder")
        with write_atomically(self.folder) as draft:
            draft.mkdir()
            self._write(draft / "000000.parquet", schema.empty_table())
            write_text(draft / SETTINGS, json.dumps(settings))

    def read_rows(self, columns: Sequence[str], images: Sequence[str] | None = None) -> pa.Table:
        import pyarrow as pa
        import pyarrow.compute as pc

        columns = list(dict.fromkeys(["image", *columns]))
        table = pa.concat_tables(self._read(file, columns) for file in self._list_files())
        return table if images is None else table.filter(pc.is_in(table["image"], pa.array(images, pa.string())))

    def add(self, rows: pa.Table) -> None:
        self._write(self.folder / f"{int(self._list_files()[-1].stem) + 1:06d}.parquet", rows)

    def remove(self, images: Sequence[str]) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        removed = pa.array(images, pa.string())
        for file in self._list_files():
            rows = self._read(file)
            remaining = rows.filter(pc.invert(pc.is_in(rows["image"], removed)))
            if len(remaining) < len(rows):
                self._write(file, remaining)

    def search(self, query: np.ndarray, k: int, where: str | None, exact: bool) -> list[Match]:
        if where is not None:
            raise UsageError("where: a .faiss index cannot be filtered by columns: use a .lance index")
        rows, index = self._index
        scores, indices = index.search(query[None], min(k, len(rows)))
        matches = rows.take(indices[0]).to_pylist()
        return [Match(row.pop("image"), score, row) for row, score in zip(matches, scores[0].tolist(), strict=True)]

    def finish(self, approximate: bool) -> None:
        """Do nothing: a search is always exact."""

    @cached_property
    def _index(self) -> tuple[pa.Table, Any]:
        import faiss

        names = self._read(self._list_files()[0]).column_names
        rows = self.read_rows(names)
        vectors = rows["vector"].combine_chunks().flatten().to_numpy().reshape(len(rows), -1)
        index = faiss.IndexFlatIP(rows.schema.field("vector").type.list_size)
        index.add(vectors)
        return rows.drop_columns(["vector", "stamp"]), index

    def _list_files(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.parquet"))

    def _read(self, file: Path, columns: Sequence[str] | None = None) -> pa.Table:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.read_table(file, columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise RTDError(f"{file}: a broken file of an index: build it again with another --output") from error

    def _write(self, file: Path, rows: pa.Table) -> None:
        import pyarrow.parquet as pq

        self.__dict__.pop("_index", None)
        with write_atomically(file) as draft:
            pq.write_table(rows, draft)


@hookimpl
def rtd_gallery_store(path: str) -> GalleryStore | None:
    return FaissStore(path) if path.rstrip("/").endswith(".faiss") else None

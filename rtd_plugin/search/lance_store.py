"""Galleries in LanceDB: on disk or in an object store, filtered by SQL, approximate for large ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rtd_plugin.contract.markers import hookimpl
from rtd_plugin.errors import RTDError, UsageError, require_extra
from rtd_plugin.search.gallery_store import GalleryStore, Match

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

TABLE, SETTINGS = "images", b"rtd_plugin"
PROBES, REFINED = 40, 10  # partitions that an approximate search reads; candidates per result that are scored exactly


class LanceStore(GalleryStore):
    """A LanceDB database with one table.

    Args:
        path: a folder that ends in `.lance`, or the URI of one in an object store.
    """

    def __init__(self, path: str):
        with require_extra("index", "an index in LanceDB"):
            import lancedb  # noqa: F401  # before images are encoded for it
        self.path = path

    @cached_property
    def _database(self) -> Any:
        import lancedb

        return lancedb.connect(self.path)

    @cached_property
    def _table(self) -> Any:
        try:
            return self._database.open_table(TABLE)
        except (ValueError, OSError, RuntimeError) as error:
            raise RTDError(f"{self.path}: no index here, or a broken one ({str(error).splitlines()[0]})") from error

    def read_settings(self) -> Mapping[str, Any] | None:
        if TABLE not in self._database.list_tables().tables or self._is_unfinished():
            return None
        try:
            return json.loads(self._table.schema.metadata[SETTINGS])
        except (KeyError, TypeError, ValueError) as error:
            raise RTDError(f"{self.path}: a LanceDB table, but not an index of rtd-plugin") from error

    def create(self, schema: pa.Schema, settings: Mapping[str, Any]) -> None:
        described = schema.with_metadata({SETTINGS: json.dumps(settings).encode()})
        with self._explain_errors():
            self.__dict__["_table"] = self._database.create_table(TABLE, schema=described, mode="overwrite")

    def read_rows(self, columns: Sequence[str], images: Sequence[str] | None = None) -> pa.Table:
        query = self._table.search().select(list(columns))
        if images is not None:
            query = query.where(_list_images(images))
        return query.limit(None).to_arrow()

    def add(self, rows: pa.Table) -> None:
        with self._explain_errors():
            self._table.add(rows)

    def remove(self, images: Sequence[str]) -> None:
        with self._explain_errors():
            self._table.delete(_list_images(images))

    def search(self, query: np.ndarray, k: int, where: str | None, exact: bool) -> list[Match]:
        columns = [name for name in self._table.schema.names if name not in ("stamp", "vector")]
        search = self._table.search(query).distance_type("dot").limit(k).select([*columns, "_distance"])
        search = search.bypass_vector_index() if exact else search.nprobes(PROBES).refine_factor(REFINED)
        if where is not None:
            search = search.where(where, prefilter=True)
        try:
            rows = search.to_list()
        except (ValueError, RuntimeError) as error:
            if where is None:
                raise
            raise UsageError(f"where: {where!r} is not a condition on {', '.join(columns)} in SQL ({error})") from error
        return [Match(row.pop("image"), 1 - row.pop("_distance"), row) for row in rows]

    @property
    def is_approximate(self) -> bool:  # type: ignore[override]
        return any(index.columns == ["vector"] for index in self._table.list_indices())

    def finish(self, approximate: bool) -> None:
        with self._explain_errors():
            self._table.optimize()  # compacts files, and adds new rows to an index
            if approximate and not self.is_approximate:
                from lancedb.index import IvfSq

                self._table.create_index("vector", config=IvfSq(distance_type="dot"))

    def _is_unfinished(self) -> bool:
        """Whether a process was killed while it made the table: a folder without a version."""
        table = Path(self.path, f"{TABLE}.lance")
        return table.is_dir() and not any(table.glob("_versions/*.manifest"))

    @contextmanager
    def _explain_errors(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, OSError, RuntimeError) as error:
            raise RTDError(f"{self.path}: cannot be written ({str(error).splitlines()[0]})") from error


def _list_images(images: Sequence[str]) -> str:
    quoted = ", ".join("'{}'".format(image.replace("'", "''")) for image in images)
    return f"image IN ({quoted})"


@hookimpl
def rtd_gallery_store(path: str) -> GalleryStore | None:
    return LanceStore(path) if path.rstrip("/").endswith(".lance") else None

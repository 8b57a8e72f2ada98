"""An index of many images: rate of building, time of exact and approximate queries, recall, size, memory.

    python tests/benchmarks/index.py [--rows 1000000] [--features 768] [--output gallery.lance] [--queries 100]

Vectors are drawn around random centres, one for every hundred images, as pictures of a catalogue are alike; encoding
pictures is not part of it.
"""

import argparse
import resource
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa

from rtd_plugin.contract import plugins
from rtd_plugin.search.gallery_store import GalleryStore
from rtd_plugin.search.indexing import ROWS
from rtd_plugin.workflows.index import measure_recall


def make_vectors(rng: np.random.Generator, centres: np.ndarray, rows: int) -> np.ndarray:
    noise = rng.standard_normal((rows, centres.shape[1]), dtype=np.float32) * centres.shape[1] ** -0.5
    vectors = centres[rng.integers(len(centres), size=rows)] + noise
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def measure_queries(store: GalleryStore, queries: np.ndarray, exact: bool) -> float:
    """Return the median of a query's wall-clock time, in milliseconds."""
    times = []
    for query in queries:
        start = time.perf_counter()
        store.search(query, 10, None, exact)
        times.append(time.perf_counter() - start)
    return 1000 * median(times[3:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=768)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--output", help="where to build it; default: a temporary folder")
    options = parser.parse_args()
    output = Path(options.output or tempfile.mkdtemp()) / "gallery.lance"
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((max(1, options.rows // 100), options.features), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    store = plugins.find_gallery_store(str(output))
    vector = pa.list_(pa.float32(), options.features)
    store.create(pa.schema([("image", pa.string()), ("stamp", pa.string()), ("vector", vector)]), {})
    seconds = 0.0
    for start in range(0, options.rows, ROWS):
        vectors = make_vectors(rng, centres, min(ROWS, options.rows - start))
        names = pa.array([f"{start + row:09d}.jpg" for row in range(len(vectors))])
        flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), options.features)
        began = time.perf_counter()
        store.add(pa.table([names, names, flat], names=["image", "stamp", "vector"]))
        seconds += time.perf_counter() - began
    began = time.perf_counter()
    store.finish(approximate=False)
    seconds += time.perf_counter() - began
    queries = make_vectors(rng, centres, options.queries + 3)
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file()) / 2**30
    print(f"{options.rows:,} × {options.features}: {options.rows / seconds:,.0f} rows a second, {size:.2f} GiB")
    print(f"  exact: {measure_queries(store, queries, exact=True):.1f} ms a query", flush=True)
    began = time.perf_counter()
    store.finish(approximate=True)
    print(f"  approximate index: {time.perf_counter() - began:.0f} s")
    print(f"  approximate: {measure_queries(store, queries, exact=False):.1f} ms a query, ", end="")
    print(f"recall@10 {measure_recall(store)} %")
    print(f"  peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    if options.output is None:
        shutil.rmtree(output.parent)


if __name__ == "__main__":
    main()

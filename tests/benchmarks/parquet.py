"""Time and memory of opening a large Parquet file of triplets, and of reading it in order.

    python tests/benchmarks/parquet.py [--rows 10000000] [--folder /tmp]

The program writes the file first, by repeating rows, and removes it at the end. Memory is the growth of the
process in MB.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rtd_plugin.triplets.sources import ParquetSource

ROWS = 100_000  # distinct rows, which the file repeats


def write_triplets(path: Path, rows: int) -> None:
    """Write a file of repeated triplets."""
    texts = {
        "reference": [f"a man with number {row} walks along a street in the rain ." for row in range(ROWS)],
        "condition": [f"show number {row} instead and have it on the beach" for row in range(ROWS)],
        "target": [f"a man with number {row} walks along the beach in the rain ." for row in range(ROWS)],
    }
    table = pa.table(texts)
    with pq.ParquetWriter(path, table.schema) as writer:
        for _ in range(rows // ROWS):
            writer.write_table(table)


def measure_memory() -> float:
    """Return the resident memory that is not mapped from a file, in MB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(lines["RssAnon"].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "triplets.parquet"
        write_triplets(path, args.rows)
        memory_before, start, cpu_start = measure_memory(), time.perf_counter(), time.process_time()
        triplet_set = ParquetSource(path=path).load()
        print(
            f"opened {len(triplet_set.triplets):,} triplets ({path.stat().st_size / 1e6:,.0f} MB) in "
            f"{time.perf_counter() - start:.3f} s ({time.process_time() - cpu_start:.3f} s of processor time), "
            f"{measure_memory() - memory_before:.1f} MB more"
        )
        start, cpu_start = time.perf_counter(), time.process_time()
        growth, count = 0.0, 0
        for count, _ in enumerate(triplet_set.triplets, 1):
            if count % 500_000 == 0:
                growth = max(growth, measure_memory() - memory_before)
            if count == 2_000_000:
                break
        print(
            f"read {count:,} in {time.perf_counter() - start:.1f} s ({time.process_time() - cpu_start:.1f} s of "
            f"processor time), {growth:.1f} MB more at the peak"
        )
        start, cpu_start = time.perf_counter(), time.process_time()
        triplet_set.digest  # noqa: B018
        print(f"digest in {time.perf_counter() - start:.2f} s ({time.process_time() - cpu_start:.2f} s)")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"peak of the whole program, including writing the file: {peak:.0f} MB")


if __name__ == "__main__":
    main()

"""What opening a Parquet file of many triplets takes, and reading it in order: seconds and memory.

    python tests/benchmarks/parquet.py [--rows 10000000] [--folder /tmp]

The file is made first, by repetition, and removed afterwards. Memory is what the process holds more than before, in MB.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rtd_plugin.triplets.sources import ParquetSource

ROWS = 100_000  # that are written again and again


def make(path: Path, rows: int) -> None:
    texts = {
        "reference": [f"a man with number {n} walks along a street in the rain ." for n in range(ROWS)],
        "condition": [f"show number {n} instead and have it on the beach" for n in range(ROWS)],
        "target": [f"a man with number {n} walks along the beach in the rain ." for n in range(ROWS)],
    }
    table = pa.table(texts)
    with pq.ParquetWriter(path, table.schema) as writer:
        for _ in range(rows // ROWS):
            writer.write_table(table)


def held() -> float:
    """Resident memory that is not a file's, MB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(lines["RssAnon"].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "triplets.parquet"
        make(path, args.rows)
        before, began, processor = held(), time.perf_counter(), time.process_time()
        found = ParquetSource(path=path).load()
        print(
            f"opened {len(found.triplets):,} triplets ({path.stat().st_size / 1e6:,.0f} MB) in "
            f"{time.perf_counter() - began:.3f} s ({time.process_time() - processor:.3f} s of processor time), "
            f"{held() - before:.1f} MB more"
        )
        began, processor = time.perf_counter(), time.process_time()
        most, count = 0.0, 0
        for count, _ in enumerate(found.triplets, 1):
            if count % 500_000 == 0:
                most = max(most, held() - before)
            if count == 2_000_000:
                break
        print(
            f"read {count:,} in {time.perf_counter() - began:.1f} s ({time.process_time() - processor:.1f} s of "
            f"processor time), {most:.1f} MB more at most"
        )
        began, processor = time.perf_counter(), time.process_time()
        found.digest  # noqa: B018
        print(f"digest in {time.perf_counter() - began:.2f} s ({time.process_time() - processor:.2f} s)")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"peak of the whole program, making the file included: {peak:.0f} MB")


if __name__ == "__main__":
    main()

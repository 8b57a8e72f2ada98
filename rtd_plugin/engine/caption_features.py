"""Features of triplets' captions by the frozen encoder, cached on disk for later epochs and later runs.

A file has one row for each triplet of a run, in the order of the first epoch: a checksum, and the features of target
and reference. A row with a bad checksum counts as missing. So a killed process, a power cut, or two processes that
write the same row leave nothing that could be taken for a feature; rows that were not written take no space on disk.

A caption's feature differs in its last bits with the captions that it is computed with. So that a resumed run gives the
same to the last bit, triplets are computed in blocks, the batches of the first epoch, and a block always as a whole.
"""

import logging
import os
import shutil
import weakref
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rtd_plugin.cache import cache_folder, hash_key, lock
from rtd_plugin.files import write_atomically
from rtd_plugin.training.frozen import DTYPES
from rtd_plugin.training.run import Run

LIMIT = 32 * 2**30  # bytes that all files together may take; one file takes at most half of what is free
CHECKSUM = 8  # bytes
FORMAT = 3


class CaptionFeatures:
    """Features of a run's triplets in a file with room for the first blocks of them; others are computed each time.

    Args:
        path: the file; its name identifies all that the features depend on. The least recently used files in its folder
            are removed when all together would take more than `LIMIT`.
        triplets: how many there are.
        block: how many triplets are computed together; the last block may be smaller.
        features: size of a feature, D.
        dtype: of the features.

    Raises:
        WriteError: the folder cannot be written.
    """

    def __init__(self, path: Path, triplets: int, block: int, features: int, dtype: torch.dtype):
        self.path, self._triplets, self._block, self._features, self._dtype = path, triplets, block, features, dtype
        self._size = CHECKSUM + 2 * features * dtype.itemsize  # of a row
        with lock(path.parent / ".lock"):
            if not path.exists():
                blocks = _free_space(path.parent) // (self._size * block)
                with write_atomically(path) as draft, draft.open("wb") as file:
                    file.truncate(min(triplets, blocks * block) * self._size)
            os.utime(path)
        self._file = os.open(path, os.O_RDWR)
        weakref.finalize(self, os.close, self._file)
        self.rows = path.stat().st_size // self._size
        self._writes = True

    def read(self, positions: np.ndarray, compute: Callable[[np.ndarray], Tensor]) -> Tensor:
        """Return the features of triplets, (n, 2, D), computing those that are missing.

        Args:
            positions: (n,) int64, of the triplets in the first epoch.
            compute: returns the features, (m, 2, D), of triplets at m positions.
        """
        rows = {position: self._read_row(position) for position in positions.tolist()}
        missing = [position for position, row in rows.items() if row is None]
        blocks = {position // self._block for position in missing if position < self.rows}
        # To compute a block for each triplet of a batch pays off only if it is then kept.
        if self._writes or len(blocks) == 1:
            for block in sorted(blocks):
                start = block * self._block
                members = np.arange(start, min(start + self._block, self._triplets))
                computed = self._encode(compute(members))
                self._write(start, computed)
                rows.update(
                    (position, computed[position - start]) for position in missing if position // self._block == block
                )
        missing = [position for position, row in rows.items() if row is None]
        if missing:
            rows.update(zip(missing, self._encode(compute(np.array(missing))), strict=True))
        return self._decode([row for row in rows.values() if row is not None])

    def _read_row(self, position: int) -> bytes | None:
        if position >= self.rows:
            return None
        row = os.pread(self._file, self._size, position * self._size)
        return row[CHECKSUM:] if _checksum(row[CHECKSUM:]) == row[:CHECKSUM] else None

    def _encode(self, features: Tensor) -> list[bytes]:
        return [row.tobytes() for row in features.flatten(1).cpu().contiguous().view(torch.uint8).numpy()]

    def _decode(self, rows: Sequence[bytes]) -> Tensor:
        return torch.frombuffer(bytearray().join(rows), dtype=self._dtype).view(len(rows), 2, self._features)

    def _write(self, position: int, rows: Sequence[bytes]) -> None:
        if not self._writes:
            return
        content, offset = memoryview(b"".join(_checksum(row) + row for row in rows)), position * self._size
        try:
            while content:
                written = os.pwrite(self._file, content, offset)
                content, offset = content[written:], offset + written
        except OSError as error:  # the disk is full: the run continues without
            self._writes = False
            logging.getLogger(__name__).warning("%s: no more features are cached (%s)", self.path, error.strerror)


def open_caption_features(run: Run, device: torch.device) -> CaptionFeatures:
    """Open the cache of a run's captions; its name is a hash of all that the features' last bits depend on."""
    recipe, dtype = run.recipe, DTYPES[run.recipe.precision]
    blocks = [recipe.seed, recipe.shuffle, recipe.batch_size]
    environment = [torch.__version__, device.type, torch.get_num_threads(), str(dtype), run.base_digest]
    path = cache_folder() / "frozen" / f"{hash_key([FORMAT, run.triplets.key, *blocks, *environment])}.features"
    return CaptionFeatures(path, len(run.triplets), recipe.batch_size, run.tower.features, dtype)


def _checksum(values: bytes) -> bytes:
    """Return a checksum that is never zero, as a row that was not written is."""
    return (zlib.crc32(values) + 1).to_bytes(CHECKSUM, "little")


def _free_space(folder: Path) -> int:
    """Return the bytes that one more file may take, after removing the least recently used ones."""
    files = sorted((path.stat().st_mtime, path.stat().st_blocks * 512, path) for path in folder.glob("*.features"))
    used = sum(size for _, size, _ in files)
    for _, size, path in files:
        if used < LIMIT // 2:
            break
        path.unlink()  # a run that has it open keeps using it
        used -= size
    return min(LIMIT // 2, shutil.disk_usage(folder).free // 2)

"""Features of captions by the frozen encoder, cached on disk for later epochs and later runs.

A file has one row for each caption of a run: a checksum and the feature. A row with a bad checksum counts as missing.
So a killed process, a power cut, or two processes that write the same row leave nothing that could be taken for a
feature; rows that were not written take no space on the disk.

A caption's feature differs in its last bits with the captions that it is computed with. So that a resumed run gives the
same to the last bit, a batch's captions are computed all together or not at all, and what decides about batches is part
of the file's name.
"""

import logging
import os
import shutil
import weakref
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from rtd_plugin.cache import cache_folder, hash_key, lock
from rtd_plugin.files import write_atomically
from rtd_plugin.training.frozen import DTYPES
from rtd_plugin.training.run import Run

LIMIT = 32 * 2**30  # bytes that all files together may take; one file takes at most half of what is free
CHECKSUM = 8  # bytes
FORMAT = 2


class CaptionFeatures:
    """Features of a run's captions in a file with room for the first `rows` captions; others are computed each time.

    Args:
        path: the file; its name identifies all that the features depend on. The least recently used files in its folder
            are removed when all together would take more than `LIMIT`.
        captions: how many there are.
        features: size of a feature, D.
        dtype: of the features.

    Raises:
        WriteError: the folder cannot be written.
    """

    def __init__(self, path: Path, captions: int, features: int, dtype: torch.dtype):
        self.path, self._features, self._dtype = path, features, dtype
        self._size = CHECKSUM + features * dtype.itemsize  # of a row
        with lock(path.parent / ".lock"):
            if not path.exists():
                rows = min(captions, _free_space(path.parent) // self._size)
                with write_atomically(path) as draft, draft.open("wb") as file:
                    file.truncate(rows * self._size)
            os.utime(path)
        self._file = os.open(path, os.O_RDWR)
        weakref.finalize(self, os.close, self._file)
        self.rows = path.stat().st_size // self._size
        self._writes = True

    def read(self, captions: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the features of captions, (n, D), computing those that are missing.

        Args:
            captions: (n,) int64 on the CPU, their indices.
            compute: returns the features of the captions that a mask, (n,) bool, selects.
        """
        has_row = captions < self.rows
        indices = captions[has_row].tolist()
        rows = [os.pread(self._file, self._size, index * self._size) for index in indices]
        valid = torch.tensor([_checksum(row[CHECKSUM:]) == row[:CHECKSUM] for row in rows], dtype=torch.bool)
        if has_row.all() and valid.all():
            return self._decode(rows)
        features = torch.empty(len(captions), self._features, dtype=self._dtype)
        if valid.all():
            features[has_row] = self._decode(rows)
        else:
            computed = compute(has_row).cpu()
            features[has_row] = torch.where(valid.unsqueeze(1), self._decode(rows), computed)
            missing = [index for index, is_valid in zip(indices, valid, strict=True) if not is_valid]
            self._write(missing, computed[~valid])
        if not has_row.all():
            features[~has_row] = compute(~has_row).cpu()
        return features

    def _decode(self, rows: Sequence[bytes]) -> Tensor:
        if not rows:
            return torch.empty(0, self._features, dtype=self._dtype)
        values = bytearray().join(row[CHECKSUM:] for row in rows)
        return torch.frombuffer(values, dtype=self._dtype).view(len(rows), self._features)

    def _write(self, indices: Sequence[int], features: Tensor) -> None:
        if not self._writes:
            return
        values = features.contiguous().view(torch.uint8).numpy()
        try:
            for index, value in zip(indices, values, strict=True):
                row = value.tobytes()
                os.pwrite(self._file, _checksum(row) + row, index * self._size)
        except OSError as error:  # the disk is full: the run continues without
            self._writes = False
            logging.getLogger(__name__).warning("%s: no more features are cached (%s)", self.path, error.strerror)


def open_caption_features(run: Run, accelerator: Accelerator) -> CaptionFeatures:
    """Open the cache of a run's captions; its name is a hash of all that the features' last bits depend on."""
    recipe, dtype = run.recipe, DTYPES[run.recipe.precision]
    batches = [
        recipe.seed,
        recipe.shuffle,
        recipe.batch_size,
        accelerator.num_processes,
        run.began_with or accelerator.num_processes,
    ]
    device = [torch.__version__, accelerator.device.type, torch.get_num_threads(), str(dtype), run.base_digest]
    name = hash_key([FORMAT, run.triplets.key, *batches, *device])
    path = cache_folder() / "frozen" / f"{name}.features"
    return CaptionFeatures(path, run.triplets.texts, run.tower.features, dtype)


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

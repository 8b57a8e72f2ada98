"""What the frozen encoder gives for captions, kept on disk from one epoch to the next, and to the next run.

A file has one row for each caption of a run: a checksum and the feature. A row whose checksum does not fit is not
there. So a process that is killed, a machine that loses power, or two processes that write the same row leave nothing
that could be taken for a feature; rows that were not written take no room on the disk.

A caption's feature differs in its last bits with those that it is computed with. So that a run that is resumed gives
the same to the last bit, all captions that are asked for together are computed together or none is, and what decides
that (`rtd_plugin.engine.batch_groups`) is part of a file's name.
"""

import logging
import os
import shutil
import weakref
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from rtd_plugin.errors import RTDError
from rtd_plugin.files import write_atomically

LIMIT = 32 * 2**30  # bytes that all files together may take; one file takes at most half of what is free
CHECKSUM = 8  # bytes
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}  # of what is frozen, by precision


class KeptFeatures:
    """Features of captions in a file; there is room for the first `rows` captions, the others are computed each time.

    Args:
        path: of the file, whose name stands for all that its features depend on. What lies beside it and was not used
            for longest is removed when all together would take more than `LIMIT`.
        captions: how many there are.
        features: size of a feature, D.
        dtype: of the features.

    Raises:
        RTDError: the folder cannot be written.
    """

    def __init__(self, path: Path, captions: int, features: int, dtype: torch.dtype):
        self.path, self._features, self._dtype = path, features, dtype
        self._size = CHECKSUM + features * dtype.itemsize  # of a row
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.parent / ".lock"):
                if not path.exists():
                    rows = min(captions, _room(path.parent) // self._size)
                    with write_atomically(path) as draft, draft.open("wb") as file:
                        file.truncate(rows * self._size)
                os.utime(path)
            self._file = os.open(path, os.O_RDWR)
            weakref.finalize(self, os.close, self._file)
        except OSError as error:
            raise RTDError(f"{path.parent}: cannot be written ({error.strerror}): set RTD_PLUGIN_CACHE") from error
        self.rows = path.stat().st_size // self._size
        self._writes = True

    def features(self, captions: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """The features of captions, (n, D).

        Args:
            captions: (n,) integers on the CPU, their numbers.
            compute: the features of those of them that a mask, (n,) bool, has.
        """
        kept = captions < self.rows
        numbers = captions[kept].tolist()
        rows = [os.pread(self._file, self._size, number * self._size) for number in numbers]
        there = torch.tensor([_checksum(row[CHECKSUM:]) == row[:CHECKSUM] for row in rows], dtype=torch.bool)
        if kept.all() and there.all():
            return self._read(rows)
        features = torch.empty(len(captions), self._features, dtype=self._dtype)
        if there.all():
            features[kept] = self._read(rows)
        else:
            computed = compute(kept).cpu()
            found = self._read(rows)
            features[kept] = torch.where(there.unsqueeze(1), found, computed)
            self._write([number for number, known in zip(numbers, there, strict=True) if not known], computed[~there])
        if not kept.all():
            features[~kept] = compute(~kept).cpu()
        return features

    def _read(self, rows: Sequence[bytes]) -> Tensor:
        if not rows:
            return torch.empty(0, self._features, dtype=self._dtype)
        values = bytearray().join(row[CHECKSUM:] for row in rows)
        return torch.frombuffer(values, dtype=self._dtype).view(len(rows), self._features)

    def _write(self, numbers: Sequence[int], features: Tensor) -> None:
        if not self._writes:
            return
        values = features.contiguous().view(torch.uint8).numpy()
        try:
            for number, value in zip(numbers, values, strict=True):
                row = value.tobytes()
                os.pwrite(self._file, _checksum(row) + row, number * self._size)
        except OSError as error:  # the disk is full: the run goes on without
            self._writes = False
            logging.getLogger(__name__).warning("%s: keeps no more features (%s)", self.path, error.strerror)


def _checksum(values: bytes) -> bytes:
    """Never zero, as a row that was not written is."""
    return (zlib.crc32(values) + 1).to_bytes(CHECKSUM, "little")


def _room(folder: Path) -> int:
    """Bytes for one more file, once what was not used for longest has made place for it."""
    files = sorted((path.stat().st_mtime, path.stat().st_blocks * 512, path) for path in folder.glob("*.features"))
    taken = sum(size for _, size, _ in files)
    for _, size, path in files:
        if taken < LIMIT // 2:
            break
        path.unlink()  # a run that still has it open goes on with it
        taken -= size
    return min(LIMIT // 2, shutil.disk_usage(folder).free // 2)

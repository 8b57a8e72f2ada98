"""The records of a TorchScript archive, and views of the storages in them."""

import sys
import zipfile
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_DIMENSIONS = 64  # as in torch

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Records:
    """The records of an archive, all below one folder and stored uncompressed, as torch writes them."""

    def __init__(self, archive: zipfile.ZipFile, file_size: int):
        self._archive = archive
        self._infos = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        self._storages: dict[str, Tensor] = {}
        if len(self._infos) < len(archive.infolist()):
            raise zipfile.BadZipFile("two records of one name")
        stored = [info for info in archive.infolist() if info.compress_type == zipfile.ZIP_STORED]
        if sum(info.file_size for info in stored) > file_size:
            raise zipfile.BadZipFile("its records are larger than the file")
        if "byteorder" in self._infos and self.read("byteorder", 16).decode() != sys.byteorder:
            raise zipfile.BadZipFile("written on a machine of another byte order")

    def read(self, name: str, most: int) -> bytes:
        """Read a record of at most `most` bytes."""
        if name not in self._infos:
            raise zipfile.BadZipFile(f"no record {name}")
        info = self._infos[name]
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > most:
            raise zipfile.BadZipFile(f"the record {name} is compressed or too large")
        return self._archive.read(info)

    def storage(self, key: str, dtype: torch.dtype, length: int) -> Tensor:
        """Read a storage (length,), once."""
        if key not in self._storages:
            content = bytearray(self.read(f"data/{key}", length * dtype.itemsize))
            if len(content) != length * dtype.itemsize:
                raise zipfile.BadZipFile(f"the storage {key} has {len(content)} bytes, not {length * dtype.itemsize}")
            self._storages[key] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        storage = self._storages[key]
        if (storage.dtype, len(storage)) != (dtype, length):
            raise zipfile.BadZipFile(f"the storage {key} is declared twice, with different types or sizes")
        return storage


def view_storage(storage: Tensor, offset: int, sizes: Sequence[int], strides: Sequence[int]) -> Tensor:
    """Return a view of a storage, all of whose elements must be in it.

    Raises:
        zipfile.BadZipFile: the view exceeds the storage.
    """
    if len(sizes) > MAX_DIMENSIONS:
        raise zipfile.BadZipFile("a tensor of too many dimensions")
    elements = 1
    for size in sizes:
        elements *= size
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    # Not more elements than the storage has: stride 0 would claim any number of them.
    if min([offset, *sizes, *strides]) < 0 or elements > len(storage) or (elements and last >= len(storage)):
        raise zipfile.BadZipFile("a tensor exceeds its storage")
    return storage.as_strided(sizes, strides, offset)

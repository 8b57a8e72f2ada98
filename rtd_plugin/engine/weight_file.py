"""Weights that are rarely read, in a file that is mapped into memory.

They lie in the system's page cache, of which a process has as much as it reads, until it says that it is through; and
which the system takes back where memory is short.
"""

import mmap
import tempfile
from pathlib import Path

import torch
from torch import nn


class WeightFile:
    """Moves a module's weights to a file, for reading; nobody sees the file, and it is gone with the process.

    Args:
        module: on the CPU, its parameters without gradients.
        folder: where there is room for them.

    Raises:
        OSError: there is no room; the module is as it was.
    """

    def __init__(self, module: nn.Module, folder: Path):
        self._places: dict[nn.Parameter, int] = {}
        with tempfile.TemporaryFile(dir=folder) as file:
            for parameter in module.parameters():
                self._places[parameter] = file.seek(-(-file.tell() // mmap.PAGESIZE) * mmap.PAGESIZE)
                file.write(parameter.detach().contiguous().flatten().view(torch.uint8).numpy())
            file.truncate(-(-file.tell() // mmap.PAGESIZE) * mmap.PAGESIZE)
            file.flush()
            # Torch knows no tensors that cannot be written: what would be written were not to reach the file.
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        for parameter, place in self._places.items():
            flat = torch.frombuffer(self._map, dtype=parameter.dtype, count=parameter.numel(), offset=place)
            parameter.data = flat.view(parameter.shape)

    def release(self, module: nn.Module) -> None:
        """Have no weights of a part of the module in this process's memory until they are read again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for parameter in module.parameters():
                size = parameter.numel() * parameter.itemsize
                self._map.madvise(mmap.MADV_DONTNEED, self._places[parameter], size)

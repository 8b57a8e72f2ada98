"""Reads a safetensors file without the library, which a host may lack."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import torch

from rtd_plugin.errors import RTDError
from rtd_plugin.regular_files import open_regular

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, on the CPU.

    The format: eight bytes with the length of a JSON object, that object with dtype, shape and position of each tensor,
    and the tensors' bytes, little-endian (https://huggingface.co/docs/safetensors).

    Raises:
        RTDError: the file is missing, broken or truncated, or has tensors of a dtype that is not in `DTYPES`.
    """
    tensors = {}
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if length > size - 8:
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            for name, entry in json.loads(file.read(length)).items():
                if name == "__metadata__":
                    continue
                dtype, shape, (start, end) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
                if not 0 <= start <= end <= size - 8 - length:
                    raise ValueError(f"{name} ends outside the file")
                content = bytearray(end - start)
                file.seek(8 + length + start)
                if file.readinto(content) != len(content):  # type: ignore[attr-defined]  # a BinaryIO has it
                    raise ValueError(f"{name} is not complete")
                tensors[name] = torch.frombuffer(content, dtype=dtype).reshape(shape)
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RuntimeError, RecursionError) as error:
        raise RTDError(f"{path}: not a readable safetensors file ({error})") from error
    return tensors

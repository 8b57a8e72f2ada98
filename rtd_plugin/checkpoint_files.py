"""Reads checkpoints without running code in them."""

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.serialization import safe_globals

from rtd_plugin.checkpoint_parts import flatten_checkpoint, list_checkpoint_files, split_key
from rtd_plugin.errors import RTDError
from rtd_plugin.files import first_line
from rtd_plugin.regular_files import open_regular
from rtd_plugin.torchscript import ForeignObjectError, read_torchscript


def is_jit_archive(path: Path) -> bool:
    """Return whether a file is a TorchScript archive, the form in which OpenAI publishes its CLIP weights."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.rpartition("/")[2] == "constants.pkl" for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def read_checkpoint(path: Path) -> Mapping[str, Any]:
    """Read a checkpoint to the CPU: safetensors, a file of `torch.save`, or a TorchScript archive's state dict.

    Args:
        path: the file, recognised by its content, not its name; an index (`model.safetensors.index.json`) of several;
            or `FILE#KEY` for the weights under a key: keys of nested dictionaries, and prefixes of names, are joined
            by dots.

    Raises:
        RTDError: a file is missing or broken, lacks the key, or holds pickled code, which is never run.
    """
    file, key = split_key(path)
    files = list_checkpoint_files(path)
    shards = [_read_file(shard) for shard in (files[1:] or files)]
    checkpoint = shards[0] if len(shards) == 1 else {name: value for shard in shards for name, value in shard.items()}
    if key is None:
        return checkpoint
    names = flatten_checkpoint(checkpoint)
    selected = {name.removeprefix(f"{key}."): value for name, value in names.items() if name.startswith(f"{key}.")}
    if not selected:
        keys = [str(name) for name, value in checkpoint.items() if isinstance(value, Mapping)]
        raise RTDError(f"{file}: no weights under the key {key!r}; its dictionaries are {', '.join(keys) or 'none'}")
    return selected


def _read_file(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise RTDError(f"{path}: {'a folder, not a checkpoint file' if path.is_dir() else 'no such file'}")
    try:
        if _is_safetensors(path):
            return load_file(path)
        with warnings.catch_warnings(), safe_globals(HARMLESS):
            warnings.simplefilter("ignore")  # about old pickle protocols, which a user cannot change
            if is_jit_archive(path):
                return read_torchscript(path)
            with open_regular(path) as file:  # given a path, torch would trust its suffix
                checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file can fail in torch's reader in any way
        refused = isinstance(error, pickle.UnpicklingError) and _has_objects(path, error)
        if refused or isinstance(error, ForeignObjectError):
            raise RTDError(
                f"{path}: holds pickled objects other than tensors, which could run code when loaded. "
                "Save its state dict alone, with torch.save or as safetensors, and pass that file"
            ) from error
        # The text of other errors does not help a user, or advises to load the file unsafely.
        explained = isinstance(error, (OSError, RuntimeError, SafetensorError, zipfile.BadZipFile))
        reason = f" ({first_line(error)})" if explained else ""
        raise RTDError(f"{path}: not a checkpoint, or a broken or truncated one{reason}") from error
    if not isinstance(checkpoint, Mapping):
        raise RTDError(f"{path}: holds a {type(checkpoint).__name__}, not a state dict")
    return checkpoint


def _is_safetensors(path: Path) -> bool:
    """Return whether a file begins with the length of a JSON object, as safetensors do, or has their suffix."""
    with open_regular(path) as file:
        start = file.read(9)
    if start[:2] in (b"PK", b"\x80\x02"):  # a file of torch.save, regardless of its name
        return False
    begins = start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size
    return begins or path.suffix == ".safetensors"


class UnreadObject:
    """A replacement for any object that checkpoints have beside weights; it discards its pickled content."""

    def __new__(cls, *args: Any) -> "UnreadObject":
        return super().__new__(cls)

    def __init__(self, *args: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


# Objects that training programs save beside weights. torch's reader creates an `UnreadObject` in place of each.
HARMLESS: list[Any] = [
    (UnreadObject, name)
    for name in (
        "argparse.Namespace",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct",
        "numpy.dtype",
        "numpy.ndarray",
        "pathlib.PosixPath",
        "pathlib._local.PosixPath",
    )
]


def _has_objects(path: Path, error: pickle.UnpicklingError) -> bool:
    """Return whether torch refused the objects in a valid pickle; other files are not pickles at all."""
    with open_regular(path) as file:
        return "GLOBAL" in str(error) or file.read(1) == pickle.PROTO

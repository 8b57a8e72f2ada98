"""Reading checkpoints without running what is in them, and writing files whole or not at all."""

import os
import pickle
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from rtd_plugin.errors import RTDError
from rtd_plugin.torchscript import ForeignObjectError, read_torchscript


def is_jit_archive(path: Path) -> bool:
    """Whether a file is a TorchScript archive, the form in which OpenAI publishes its CLIP weights."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.rpartition("/")[2] == "constants.pkl" for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def read_checkpoint(path: Path) -> Mapping[str, Any]:
    """Read a checkpoint to the CPU: safetensors, a file of `torch.save`, or a TorchScript archive's state dict.

    Raises:
        RTDError: there is no such file, it is broken, or it holds pickled code, which is never run.
    """
    if not path.is_file():
        raise RTDError(f"{path}: {'a folder, not a checkpoint file' if path.is_dir() else 'no such file'}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old pickle protocols: not the user's to mend
            if is_jit_archive(path):
                return read_torchscript(path)
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file can fail in torch's reader in any way
        refused = isinstance(error, pickle.UnpicklingError) and _has_objects(path, error)
        if refused or isinstance(error, ForeignObjectError):
            raise RTDError(
                f"{path}: holds pickled objects other than tensors, which could run code when loaded. "
                "Save its state dict alone, with torch.save or as safetensors, and pass that file"
            ) from error
        # Of other errors the text says nothing to a user, or advises to load the file unsafely.
        explained = isinstance(error, (OSError, RuntimeError, SafetensorError, zipfile.BadZipFile))
        reason = f" ({_first_line(error)})" if explained else ""
        raise RTDError(f"{path}: not a checkpoint, or a broken or truncated one{reason}") from error
    if not isinstance(checkpoint, Mapping):
        raise RTDError(f"{path}: holds a {type(checkpoint).__name__}, not a state dict")
    return checkpoint


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """A path to write a file or make a folder at; it replaces `path` when the block ends without an error.

    Raises:
        RTDError: the disk is full or the place cannot be written; what was at `path` before is still there.
    """
    draft = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        yield draft / path.name
        _share(draft / path.name, draft / f"{path.name}.mode")
        if path.is_dir():
            _replace_folder(path, draft / path.name, draft / f"{path.name}.replaced")
        else:
            os.replace(draft / path.name, path)
    except (OSError, SafetensorError) as error:
        raise RTDError(f"{path}: cannot be written ({_first_line(error)})") from error
    except RuntimeError as error:
        # torch.save reports a full disk as a RuntimeError of its archive writer.
        if "PytorchStreamWriter" not in str(error) and "inline_container" not in str(error):
            raise
        raise RTDError(f"{path}: cannot be written ({_first_line(error)})") from error
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)


def _share(written: Path, probe: Path) -> None:
    """Give files the mode of any new one: safetensors makes them readable for their owner alone."""
    probe.touch()
    mode = probe.stat().st_mode & 0o777
    for file in (written, *written.rglob("*")):
        if file.is_file():
            file.chmod(mode)


def _replace_folder(path: Path, new: Path, aside: Path) -> None:
    if not new.is_dir():
        raise IsADirectoryError(f"it is a folder, and is not replaced by the file {new.name}")
    os.replace(path, aside)
    try:
        os.replace(new, path)
    except OSError:
        os.replace(aside, path)
        raise


def cache_folder() -> Path:
    """Where what can be made again is kept: $RTD_PLUGIN_CACHE, or rtd-plugin in $XDG_CACHE_HOME or ~/.cache."""
    if os.environ.get("RTD_PLUGIN_CACHE"):
        return Path(os.environ["RTD_PLUGIN_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rtd-plugin"


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with write_atomically(path) as draft:
        draft.write_text(text, encoding="utf-8")


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0].split(". ")[0] or type(error).__name__


def _has_objects(path: Path, error: pickle.UnpicklingError) -> bool:
    """Whether it is a sound pickle of something else that torch refused, rather than no pickle at all."""
    with path.open("rb") as file:
        return "GLOBAL" in str(error) or file.read(1) == pickle.PROTO

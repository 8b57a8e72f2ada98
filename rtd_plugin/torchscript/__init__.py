"""The tensors of a TorchScript archive, read without running its code.

An archive is a zip of `data.pkl`, the pickled modules, and of `data/`, one raw storage a record; `code/` and the other
records are not opened. The pickle is interpreted here, not by a library: no function that it names is called.
"""

import zipfile
from pathlib import Path

from torch import Tensor

from rtd_plugin.torchscript.records import Records
from rtd_plugin.torchscript.unpickling import ForeignObjectError, Interpreter, Module

__all__ = ["ForeignObjectError", "read_torchscript"]

# Far above any CLIP (a few thousand names of under 100 characters), far below what fills the memory.
MAX_PICKLE_BYTES = 4 * 2**20
MAX_NAMES = 100_000
MAX_NAME_LENGTH = 1000


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Read a TorchScript archive's state dict to the CPU.

    Returns:
        The tensors among the modules' attributes under their dotted names: the `state_dict()` of the loaded module,
        and tensors that are plain attributes, which only the archive's code distinguishes from buffers.

    Raises:
        ForeignObjectError: the archive holds other objects than modules and tensors, or modules with a `__setstate__`.
        zipfile.BadZipFile: its records contradict each other or exceed the limits above.
        Exception: the archive is damaged in another way.
    """
    with zipfile.ZipFile(path) as archive:
        records = Records(archive, path.stat().st_size)
        root = Interpreter(records).run(records.read("data.pkl", MAX_PICKLE_BYTES))
    if not isinstance(root, Module):
        raise ForeignObjectError(f"a {type(root).__name__} instead of a module")
    return _flatten(root)


def _flatten(root: Module) -> dict[str, Tensor]:
    """Return the tensors of a tree of modules; the limits on names also end cycles."""
    state: dict[str, Tensor] = {}
    visited, pending = 0, [("", root)]
    while pending:
        prefix, module = pending.pop()
        visited += len(module)
        for name, value in module.items():
            key = f"{prefix}{name}"
            if visited > MAX_NAMES or len(key) > MAX_NAME_LENGTH:
                raise zipfile.BadZipFile("too many modules, or nested too deeply")
            if isinstance(value, Tensor):
                state[key] = value
            elif isinstance(value, Module):
                pending.append((f"{key}.", value))
    return state

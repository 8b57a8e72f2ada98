"""The tensors of a TorchScript archive, read without running its code.

An archive is a zip of `data.pkl`, the pickled modules, and of `data/`, one raw storage a record; `code/` and what else
it holds is not opened. The pickle is interpreted here, not by a library: nothing in it names a function that is called.
"""

import pickle
import pickletools
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Far above any CLIP (a few thousand names of under 100 characters), far below what fills the memory.
MAX_PICKLE_BYTES = 4 * 2**20
MAX_NAMES = 100_000
MAX_NAME_LENGTH = 1000
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
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
NUMBERS_AND_TEXTS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}
# TorchScript writes typed lists and dictionaries as calls of these, with the plain container as the first argument.
TYPED_CONTAINERS = {"build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag"}


class ForeignObjectError(pickle.UnpicklingError):
    """A pickled object that is neither a tensor nor a module nor a plain value."""


@dataclass(frozen=True)
class _Global:
    """A class or function that the pickle names."""

    module: str
    name: str


class _Module(dict[str, Any]):
    """A module's attributes by name."""


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Read a TorchScript archive's state dict to the CPU.

    Returns:
        The tensors among the modules' attributes under their dotted names: what `state_dict()` gives of the loaded
        module, and tensors that are plain attributes, which only the archive's code tells from buffers.

    Raises:
        ForeignObjectError: the archive holds other objects than modules and tensors, or modules with a `__setstate__`.
        zipfile.BadZipFile: its records contradict each other or exceed the limits above.
        Exception: it is broken in another way.
    """
    with zipfile.ZipFile(path) as archive:
        records = _Records(archive, path.stat().st_size)
        root = _Interpreter(records).run(records.read("data.pkl", MAX_PICKLE_BYTES))
    if not isinstance(root, _Module):
        raise ForeignObjectError(f"a {type(root).__name__} instead of a module")
    return _flatten(root)


class _Records:
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


class _Interpreter:
    """A stack machine for the opcodes that TorchScript's pickler writes; others are refused."""

    def __init__(self, records: _Records):
        self._records = records
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        """Return the pickled object."""
        stack = self._stack
        for opcode, argument, _ in pickletools.genops(content):
            name = opcode.name
            if name in NUMBERS_AND_TEXTS:
                stack.append(argument)
            elif name in CONSTANTS:
                stack.append(CONSTANTS[name])
            elif name in ("EMPTY_LIST", "EMPTY_DICT"):
                stack.append([] if name == "EMPTY_LIST" else {})
            elif name == "GLOBAL":
                stack.append(_Global(*argument.split(" ", 1)))
            elif name in ("BINPUT", "LONG_BINPUT"):
                self._memo[argument] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                stack.append(self._memo[argument])
            elif name == "MARK":
                self._marks.append(len(stack))
            elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
                stack.append(tuple(self._pop_marked() if name == "TUPLE" else self._pop(int(name[-1]))))
            elif name in ("APPEND", "APPENDS"):
                values = self._pop_marked() if name == "APPENDS" else self._pop(1)
                _expect(stack[-1], list).extend(values)
            elif name in ("SETITEM", "SETITEMS"):
                values = self._pop_marked() if name == "SETITEMS" else self._pop(2)
                _expect(stack[-1], dict).update(_pair(values))
            elif name == "BINPERSID":
                stack.append(self._read_storage(*self._pop(1)))
            elif name == "NEWOBJ":
                stack.append(_make_module(*self._pop(2)))
            elif name == "REDUCE":
                stack.append(_call(*self._pop(2)))
            elif name == "BUILD":
                (state,) = self._pop(1)
                _set_state(stack[-1], state)
            elif name == "STOP":
                (root,) = stack
                return root
            elif name != "PROTO":
                raise ForeignObjectError(f"opcode {name}")
        raise pickle.UnpicklingError("no end")

    def _pop(self, count: int) -> list[Any]:
        values = self._stack[-count:]
        if len(values) < count:
            raise pickle.UnpicklingError("empty stack")
        del self._stack[-count:]
        return values

    def _pop_marked(self) -> list[Any]:
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _read_storage(self, identity: Any) -> Tensor:
        word, storage_type, key, _, length = _expect(
            identity, tuple
        )  # its device does not matter: it is read to the CPU
        storage_type = _expect(storage_type, _Global)
        if word != "storage" or storage_type.module != "torch" or storage_type.name not in STORAGES:
            raise ForeignObjectError(f"a {storage_type.name}")
        return self._records.storage(_expect(key, str), STORAGES[storage_type.name], _expect(length, int))


def _make_module(cls: Any, arguments: Any) -> _Module:
    if not isinstance(cls, _Global) or not f"{cls.module}.".startswith("__torch__.") or arguments != ():
        raise ForeignObjectError(f"an object of {cls}")
    return _Module()


def _set_state(module: Any, state: Any) -> None:
    """Give a module its attributes; one with a `__setstate__`, which only running it could do, has another state."""
    if type(module) is not _Module or type(state) is not dict:
        raise ForeignObjectError("a __setstate__")
    module.update(state)


def _call(function: Any, arguments: Any) -> Any:
    function, arguments = _expect(function, _Global), _expect(arguments, tuple)
    if function == _Global("torch._utils", "_rebuild_tensor_v2"):
        return _rebuild_tensor(*arguments[:4])
    if function == _Global("collections", "OrderedDict") and not arguments:
        return {}
    if function.module == "torch.jit._pickle" and function.name in TYPED_CONTAINERS and arguments:
        return arguments[0]
    raise ForeignObjectError(f"{function.module}.{function.name}")


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, stride: Any) -> Tensor:
    """Return the view of a storage, all of whose elements must be in it."""
    storage = _expect(storage, Tensor)
    sizes = [_expect(size, int) for size in _expect(shape, tuple)]
    steps = [_expect(step, int) for step in _expect(stride, tuple)]
    if len(sizes) > MAX_DIMENSIONS:
        raise zipfile.BadZipFile("a tensor of too many dimensions")
    elements = 1
    for size in sizes:
        elements *= size
    last = _expect(offset, int) + sum((size - 1) * step for size, step in zip(sizes, steps, strict=True))
    # Not more elements than the storage has: stride 0 would claim any number of them.
    if min([offset, *sizes, *steps]) < 0 or elements > len(storage) or (elements and last >= len(storage)):
        raise zipfile.BadZipFile("a tensor exceeds its storage")
    return storage.as_strided(sizes, steps, offset)


def _expect(value: Any, expected: type) -> Any:
    if not isinstance(value, expected) or isinstance(value, bool):
        raise ForeignObjectError(f"a {type(value).__name__} instead of a {expected.__name__}")
    return value


def _pair(values: list[Any]) -> dict[Any, Any]:
    """Return a dictionary of alternating keys and values."""
    keys = [key if isinstance(key, int | float) else _expect(key, str) for key in values[::2]]
    return dict(zip(keys, values[1::2], strict=True))


def _flatten(root: _Module) -> dict[str, Tensor]:
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
            elif isinstance(value, _Module):
                pending.append((f"{key}.", value))
    return state

"""A stack machine for the pickles in TorchScript archives, which builds only modules, tensors and plain values."""

import pickle
import pickletools
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rtd_plugin.torchscript.records import STORAGES, Records, view_storage

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
PLAIN_VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}
# TorchScript writes typed lists and dictionaries as calls of these, with the plain container as the first argument.
TYPED_CONTAINERS = {"build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag"}


class ForeignObjectError(pickle.UnpicklingError):
    """A pickled object that is neither a tensor nor a module nor a plain value."""


@dataclass(frozen=True)
class _Global:
    """A class or function that the pickle names."""

    module: str
    name: str


class Module(dict[str, Any]):
    """A module's attributes by name."""


class Interpreter:
    """A stack machine for the opcodes that TorchScript's pickler writes; others are refused."""

    def __init__(self, records: Records):
        self._records = records
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        """Return the pickled object."""
        stack = self._stack
        argument: Any
        for opcode, argument, _ in pickletools.genops(content):
            name = opcode.name
            if name in PLAIN_VALUES:
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
        word, storage_type, key, _device, length = _expect(identity, tuple)
        storage_type = _expect(storage_type, _Global)
        if word != "storage" or storage_type.module != "torch" or storage_type.name not in STORAGES:
            raise ForeignObjectError(f"a {storage_type.name}")
        return self._records.storage(_expect(key, str), STORAGES[storage_type.name], _expect(length, int))


def _make_module(cls: Any, arguments: Any) -> Module:
    if not isinstance(cls, _Global) or not f"{cls.module}.".startswith("__torch__.") or arguments != ():
        raise ForeignObjectError(f"an object of {cls}")
    return Module()


def _set_state(module: Any, state: Any) -> None:
    """Give a module its attributes; the state of a module with a `__setstate__`, which is code, is not a dictionary."""
    if type(module) is not Module or type(state) is not dict:
        raise ForeignObjectError("a __setstate__")
    module.update(state)


def _call(function: Any, arguments: Any) -> Any:
    function, arguments = _expect(function, _Global), _expect(arguments, tuple)
    if function == _Global("torch._utils", "_rebuild_tensor_v2"):
        storage, offset, sizes, strides = arguments[:4]
        return view_storage(
            _expect(storage, Tensor),
            _expect(offset, int),
            [_expect(size, int) for size in _expect(sizes, tuple)],
            [_expect(stride, int) for stride in _expect(strides, tuple)],
        )
    if function == _Global("collections", "OrderedDict") and not arguments:
        return {}
    if function.module == "torch.jit._pickle" and function.name in TYPED_CONTAINERS and arguments:
        return arguments[0]
    raise ForeignObjectError(f"{function.module}.{function.name}")


def _expect(value: Any, expected: type) -> Any:
    if not isinstance(value, expected) or isinstance(value, bool):
        raise ForeignObjectError(f"a {type(value).__name__} instead of a {expected.__name__}")
    return value


def _pair(values: list[Any]) -> dict[Any, Any]:
    """Return a dictionary of alternating keys and values."""
    keys = [key if isinstance(key, int | float) else _expect(key, str) for key in values[::2]]
    return dict(zip(keys, values[1::2], strict=True))

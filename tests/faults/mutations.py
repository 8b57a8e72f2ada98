"""Mutations of valid files: of their bytes, and of the values that they hold. Strategies of hypothesis."""

import copy
import io
import json
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import torch
import yaml
from hypothesis import strategies as st
from safetensors.torch import load, save

Draw = Callable[[st.SearchStrategy[Any]], Any]

ODD_TEXTS = (
    "", "\0", "\ud800", "é", "a" * 5000, "\x1b[2J", "..", "/", "/dev/zero", "../../etc/passwd", "9999-12-31 25:00:00",
    "9" * 5000, "1e999", "nan", "$", "*", "{}", "[", "!!python/object:os.system", "~", "%s%n", "\n", "-1", "\u202e",
)  # fmt: skip
ODD_VALUES = (
    None, True, False, 0, -1, 1, 2, 10**12, -(10**12), 10**400, 0.5, -0.5, 1e308, float("nan"), float("inf"), [], {},
    [[]], [None], {"": {}}, [1, "a", None], *ODD_TEXTS,
)  # fmt: skip
ODD_BYTES = (b"\0", b"\xff" * 8, b"\x7f\xff\xff\xff", b"\x80", b"\n", b'"', b"{", b"[", b"]" * 3, b"\xef\xbb\xbf", b",")


DEEP = "\ue000"  # a text that stands for lists in lists, too deep for Python to write
NESTED = "[" * 100_000 + "]" * 100_000


@st.composite
def mutated_bytes(draw: Draw, content: bytes) -> bytes:
    """Flip, cut, repeat and insert bytes, one to four times."""
    for _ in range(draw(st.integers(1, 4))):
        # Headers are where formats break most.
        at = draw(st.one_of(st.integers(0, len(content)), st.integers(0, min(200, len(content)))))
        length = draw(st.integers(1, 64))
        match draw(st.sampled_from(("flip", "set", "cut", "end", "repeat", "insert", "odd"))):
            case "flip" if at < len(content):
                content = content[:at] + bytes([content[at] ^ (1 << length % 8)]) + content[at + 1 :]
            case "set":
                content = content[:at] + draw(st.binary(min_size=1, max_size=8)) + content[at + 8 :]
            case "cut":
                content = content[:at] + content[at + length :]
            case "end":
                content = content[:at]
            case "repeat":
                content = content[:at] + content[at : at + length] * draw(st.integers(2, 9)) + content[at + length :]
            case "insert":
                content = content[:at] + draw(st.binary(min_size=1, max_size=16)) + content[at:]
            case "odd":
                content = content[:at] + draw(st.sampled_from(ODD_BYTES)) + content[at:]
    return content


@st.composite
def mutated_value(draw: Draw, value: Any, leaf: st.SearchStrategy[Any] | None = None) -> Any:
    """Replace, remove, rename, wrap or repeat something in nested dictionaries and lists, one to three times.

    Args:
        value: what to mutate a copy of.
        leaf: what to put in place of a value, by default odd values of JSON.
    """
    leaves = leaf or st.sampled_from((*ODD_VALUES, DEEP, {DEEP: DEEP}))
    box = {"": copy.copy(value)}
    for _ in range(draw(st.integers(1, 3))):
        parent, key = box, ""
        for _ in range(draw(st.integers(0, 6))):
            child = parent[key]
            if not isinstance(child, Mapping | list) or not child:
                break
            child = parent[key] = copy.copy(child)
            keys = list(child) if isinstance(child, Mapping) else range(len(child))
            parent, key = child, draw(st.sampled_from(keys))
        match draw(st.sampled_from(("replace", "replace", "remove", "rename", "wrap", "repeat"))):
            case "remove" if parent is not box:
                del parent[key]
            case "rename" if isinstance(parent, dict) and parent is not box:
                parent[draw(st.sampled_from(("", "other", "a.b", "\0", "path", "__class__")))] = parent.pop(key)
            case "wrap":
                parent[key] = draw(st.sampled_from(([parent[key]], {"a": parent[key]}, [parent[key]] * 3)))
            case "repeat" if isinstance(parent, list):
                parent.insert(key, parent[key])
            case _:
                parent[key] = draw(leaves)
        if not isinstance(box.get(""), Mapping | list):
            break
    return box[""]


@st.composite
def mutated_json(draw: Draw, content: bytes) -> bytes:
    """Mutate the value of a JSON file, or of a line of JSON lines."""
    lines = content.splitlines()
    try:
        return _dump(draw(mutated_value(json.loads(content))))
    except ValueError:
        index = draw(st.integers(0, len(lines) - 1))
        lines[index] = _dump(draw(mutated_value(json.loads(lines[index]))))
        return b"\n".join(lines)


def _dump(value: Any) -> bytes:
    return json.dumps(value).replace(json.dumps(DEEP), NESTED).encode()


@st.composite
def mutated_yaml(draw: Draw, content: bytes) -> bytes:
    """Mutate the value of a YAML file, which may get dates, tags and aliases."""
    odd = (
        "2001-01-01",
        "9999-12-31 23:59:59+00:00",
        "!!set {a}",
        "!!binary aaaa",
        "&a [*a]",
        "!!python/name:os.x",
        "<<",
    )
    value = draw(mutated_value(yaml.safe_load(content)))
    text = yaml.safe_dump(value, allow_unicode=True).replace(DEEP, NESTED[:5000])
    if draw(st.booleans()):
        text = text.replace(draw(st.sampled_from(("lincir", "6", "fp32", "json", "true"))), draw(st.sampled_from(odd)))
    return text.encode(errors="surrogatepass")


@st.composite
def odd_tensor(draw: Draw) -> Any:
    """Make a tensor of an odd shape, dtype or layout, or something else."""
    shape = draw(st.lists(st.sampled_from((0, 1, 2, 7, 16, 77)), max_size=4))
    dtypes = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.complex64)
    dtype = draw(st.sampled_from((*dtypes, torch.float8_e4m3fn)))
    filled = torch.full(shape, draw(st.sampled_from((0.0, 1.0, 1e38, float("nan"), float("inf")))))
    others = (None, 3, "text", [], {}, (), torch.Size([3]), torch.zeros(2).to_sparse(), torch.zeros(3, device="meta"))
    return draw(st.one_of(st.just(filled.to(dtype)), st.sampled_from(others)))


@st.composite
def mutated_torch(draw: Draw, content: bytes) -> bytes:
    """Mutate what a file of `torch.save` holds, or the records of its archive."""
    if draw(st.booleans()):
        return draw(mutated_archive(content))
    value = torch.load(io.BytesIO(content), weights_only=True)
    file = io.BytesIO()
    torch.save(draw(mutated_value(value, odd_tensor())), file)
    return file.getvalue()


@st.composite
def mutated_archive(draw: Draw, content: bytes) -> bytes:
    """Mutate a record of a ZIP archive, remove or repeat it, and write the archive again."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = [(name, archive.read(name)) for name in archive.namelist()]
    index = draw(st.integers(0, len(records) - 1))
    # The pickle is where an archive says what it holds.
    index = draw(st.sampled_from((index, *(i for i, (name, _) in enumerate(records) if name.endswith("data.pkl")))))
    name, record = records[index]
    match draw(st.sampled_from(("mutate", "mutate", "remove", "rename"))):
        case "mutate":
            records[index] = (name, draw(mutated_bytes(record)))
        case "remove":
            del records[index]
        case "rename":
            records[index] = (draw(st.sampled_from((name + "x", "../" + name, "constants.pkl", "data.pkl"))), record)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, record in records:
            archive.writestr(name, record)
    return file.getvalue()


@st.composite
def mutated_safetensors(draw: Draw, content: bytes) -> bytes:
    """Mutate the tensors of a safetensors file, its metadata, or its header."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    match draw(st.sampled_from(("tensors", "metadata", "header"))):
        case "header":
            text = _dump(draw(mutated_value(header)))
        case "metadata":
            metadata = dict(header.get("__metadata__", {}))
            key = draw(st.sampled_from(sorted(metadata) or ["format"]))
            try:
                value = json.loads(metadata[key])
                metadata[key] = _dump(draw(mutated_value(value))).decode()
            except (ValueError, KeyError):
                metadata[key] = str(draw(st.sampled_from(ODD_VALUES)))
            if draw(st.integers(0, 4)) == 0:
                del metadata[key]
            text = _dump({**header, "__metadata__": metadata})
        case _:
            state = draw(mutated_value(load(content), odd_tensor()))
            dense = isinstance(state, Mapping) and {
                str(name): weight.contiguous()
                for name, weight in state.items()
                if isinstance(weight, torch.Tensor) and weight.layout is torch.strided and weight.device.type == "cpu"
            }
            return save(dense or {}, header.get("__metadata__"))
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


@st.composite
def mutated_table(draw: Draw, content: bytes) -> bytes:
    """Mutate a cell, a row or the header of CSV."""
    rows = content.decode().split("\n")
    index = draw(st.integers(0, len(rows) - 1))
    cells = rows[index].split(",")
    cell = draw(st.integers(0, len(cells) - 1))
    cells[cell] = str(draw(st.sampled_from((*ODD_TEXTS, '"', '""', "a,b", "\r", '"open'))))
    rows[index : index + 1] = draw(st.sampled_from(([], [",".join(cells)], [",".join(cells)] * 2, ["", ""])))
    return "\n".join(rows).encode(errors="surrogatepass")


def strategy_of(name: str, content: bytes) -> st.SearchStrategy[bytes]:
    """Return the mutations that suit a file: of its bytes, and of its values."""
    of_values: dict[str, Callable[[bytes], st.SearchStrategy[bytes]]] = {
        ".json": mutated_json,
        ".jsonl": mutated_json,
        ".yaml": mutated_yaml,
        ".pt": mutated_torch,
        ".jit": mutated_archive,
        ".safetensors": mutated_safetensors,
        ".csv": mutated_table,
    }
    suffix = next((suffix for suffix in of_values if name.endswith(suffix)), None)
    if suffix is None:
        return mutated_bytes(content)
    return st.one_of(mutated_bytes(content), of_values[suffix](content), of_values[suffix](content))

"""Feature vectors on disk, each under a hash of what it was computed from."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import NoneType

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rtd_plugin.cache import lock
from rtd_plugin.errors import RTDError
from rtd_plugin.files import WriteError, write_atomically
from rtd_plugin.regular_files import check_regular

SHARD = 512  # vectors in a file
SHARD_LIMIT = 2**20  # more than any file has
FORMAT = 1
ATTEMPTS = 3  # to read computed vectors: files may be damaged or removed meanwhile
POLL = 0.2  # seconds between checks for vectors that other processes compute

Key = bytes
KEY_BYTES = 32
Compute = Callable[[Sequence[int]], Mapping[int, Tensor]]


def hash_text(text: str) -> Key:
    """Return the key of a vector, given a text that describes its inputs."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def hash_module(module: nn.Module, *settings: str) -> str:
    """Return SHA-256 over what `describe_module` does, and all weights' fp32 values."""
    sha = hashlib.sha256(describe_module(module, *settings).encode())
    for name, weight in sorted(module.state_dict().items()):
        sha.update(f"{name}{tuple(weight.shape)}".encode())
        sha.update(weight.detach().float().cpu().contiguous().numpy().data)
    return sha.hexdigest()


def describe_module(module: nn.Module, *settings: str) -> str:
    """Return a text with a module's submodules and their settings.

    Weights alone are not enough: a tower with another activation or number of heads may have the same weights.
    """
    modules = [(name, type(each).__qualname__, _list_settings(each)) for name, each in module.named_modules()]
    return repr((FORMAT, settings, modules))


def _list_settings(module: nn.Module) -> list[tuple[str, str]]:
    plain = (bool, int, float, str, tuple, NoneType)
    named = ((name, value) for name, value in vars(module).items() if name != "training" and not name.startswith("_"))
    return sorted((name, repr(value)) for name, value in named if isinstance(value, plain))


class FeatureCache:
    """Vectors that one model computes, by their keys; kept in a folder, or only in this object.

    A file is written for every `SHARD` vectors as soon as they are computed: a killed process loses at most these. Any
    number of processes may fill a folder at once: each computes shards that no other process is computing, and waits
    for the others' at the end. Damaged files are computed again.

    Args:
        folder: for this model only: its name must change with the model. None to keep nothing.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder
        self._shards: dict[Path, Tensor | None] = {}  # vectors (N, …) in memory; None if they are in the file
        self._paths: list[Path] = []
        # The position of each key's path in `_paths` × SHARD_LIMIT + its row: with tuples in place of integers the
        # garbage collector takes seconds for a million.
        self._rows: dict[Key, int] = {}

    def count_missing(self, keys: Sequence[Key]) -> int:
        """Return how many distinct keys have no vector yet."""
        self._find_shards()
        return len(set(keys) - self._rows.keys())

    def fetch(self, keys: Sequence[Key], compute: Compute) -> Tensor:
        """Return the vectors of keys, after computing the missing ones.

        Args:
            keys: N of them; equal ones are computed once.
            compute: returns a vector for each of up to `SHARD` indices of `keys`; those that it leaves out are not
                kept.

        Returns:
            (N, …) float32.

        Raises:
            RTDError: there are no keys, or `compute` left one out.
            WriteError: the folder cannot be written.
        """
        if not keys:
            raise RTDError("no features to compute")
        for _ in range(ATTEMPTS):
            self._compute_missing(keys, compute)
            vectors = self._load(keys)
            if vectors is not None:
                return vectors
        raise RTDError(f"{self.folder}: cached features cannot be read: remove this folder, or pass another --cache")

    def _load(self, keys: Sequence[Key]) -> Tensor | None:
        """Return the vectors of keys that are all known; None after forgetting those in damaged files."""
        indices_of: dict[int, list[int]] = {}
        for index, key in enumerate(keys):
            indices_of.setdefault(self._rows[key] // SHARD_LIMIT, []).append(index)
        vectors = None
        for position, indices in indices_of.items():  # one file at a time, to save memory
            path = self._paths[position]
            shard = self._shards[path]
            try:
                shard = load_file(path)["vectors"] if shard is None else shard
            except (SafetensorError, OSError, KeyError):
                self._forget(path)
                continue
            if vectors is None:
                vectors = shard.new_empty(len(keys), *shard.shape[1:])
            vectors[indices] = shard[[self._rows[keys[index]] % SHARD_LIMIT for index in indices]]
        return vectors if all(key in self._rows for key in keys) else None

    def _compute_missing(self, keys: Sequence[Key], compute: Compute) -> None:
        self._find_shards()
        missing = {key: index for index, key in enumerate(keys) if key not in self._rows}
        indices = sorted(missing.values())
        pending = [indices[start : start + SHARD] for start in range(0, len(indices), SHARD)]
        while pending:
            pending = [shard for shard in pending if not self._compute_shard(shard, keys, compute)]
            if pending:  # other processes compute these
                time.sleep(POLL)
        if left_out := [index for index, key in enumerate(keys) if key not in self._rows]:
            raise RTDError(f"no features for {len(left_out)} of {len(keys)}, the first at index {left_out[0]}")

    def _compute_shard(self, shard: Sequence[int], keys: Sequence[Key], compute: Compute) -> bool:
        """Compute a shard's missing vectors; return False if another process is computing the shard."""
        name = hashlib.sha256(b"".join(keys[index] for index in shard)).hexdigest()[:32]
        path = (self.folder or Path()) / f"{name}.safetensors"
        with self._lock(name) as is_locked:
            if not is_locked:
                return False
            self._read_keys(path)  # another process may have computed it by now
            indices = [index for index in shard if keys[index] not in self._rows]
            vectors = compute(indices) if indices else {}
            if vectors:
                rows = torch.stack([vector.float().cpu() for vector in vectors.values()])
                self._keep(path, [keys[index] for index in vectors], rows)
        return True

    def _keep(self, path: Path, keys: Sequence[Key], vectors: Tensor) -> None:
        if self.folder is not None:
            key_bytes = torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).reshape(-1, KEY_BYTES)
            with write_atomically(path) as draft:
                save_file({"vectors": vectors, "keys": key_bytes}, draft)
        self._add(path, keys, vectors if self.folder is None else None)

    @contextmanager
    def _lock(self, name: str) -> Iterator[bool]:
        """Lock a shard for this process; yield False if another process holds the lock."""
        if self.folder is None:
            yield True
            return
        try:
            with lock(self.folder / "locks" / name, wait=False) as is_locked:
                yield is_locked
        except WriteError as error:
            raise WriteError(f"{self.folder}: cannot cache features here ({error}): pass another --cache") from error

    def _find_shards(self) -> None:
        for path in sorted(self.folder.glob("*.safetensors")) if self.folder is not None else ():
            self._read_keys(path)

    def _read_keys(self, path: Path) -> None:
        """Read the keys of a file that is new in the folder; a damaged file counts as missing."""
        if path in self._shards or not path.exists():
            return
        try:
            check_regular(path)
            with safe_open(path, framework="pt") as file:
                keys = file.get_tensor("keys").numpy().tobytes()
            self._add(path, [keys[start : start + KEY_BYTES] for start in range(0, len(keys), KEY_BYTES)], None)
        except (SafetensorError, OSError):
            self._forget(path)

    def _add(self, path: Path, keys: Sequence[Key], vectors: Tensor | None) -> None:
        start = len(self._paths) * SHARD_LIMIT
        self._paths.append(path)
        self._shards[path] = vectors
        self._rows.update(zip(keys, range(start, start + len(keys)), strict=True))

    def _forget(self, damaged: Path) -> None:
        """Count a damaged file's vectors as missing, and remove it, so that it is not read again."""
        self._shards.pop(damaged, None)
        rows = self._rows.items()
        self._rows = {key: row for key, row in rows if self._paths[row // SHARD_LIMIT] != damaged}
        with suppress(OSError):
            damaged.unlink(missing_ok=True)

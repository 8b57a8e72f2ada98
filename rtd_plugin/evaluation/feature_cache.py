"""Feature vectors on disk, each under a hash of what it was computed from."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import NoneType

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rtd_plugin.cache import lock
from rtd_plugin.errors import RTDError
from rtd_plugin.evaluation.key_index import WORDS, KeyIndex
from rtd_plugin.files import WriteError, write_atomically
from rtd_plugin.regular_files import check_regular

SHARD = 512  # vectors in a file
SHARD_LIMIT = 2**20  # more than any file has
FORMAT = 1
ATTEMPTS = 3  # to read computed vectors: files may be damaged or removed meanwhile
POLL = 0.2  # seconds between checks for vectors that other processes compute

Key = bytes
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


class StoredVectors:
    """Vectors (N, …) in a cache, read from its files when they are asked for: `vectors[rows]`, `vectors[:]`.

    Attributes:
        shape: theirs.
        device: the CPU.
    """

    device = torch.device("cpu")

    def __init__(self, cache: "FeatureCache", locations: np.ndarray, size: Sequence[int]):
        self.shape = torch.Size([len(locations), *size])
        self._cache, self._locations = cache, locations

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Return the vectors of a slice, or of a tensor of indices.

        Raises:
            RTDError: a file was removed or damaged meanwhile.
        """
        locations = self._locations[rows if isinstance(rows, slice) else rows.numpy()]
        vectors = torch.empty(len(locations), *self.shape[1:])
        files = locations // SHARD_LIMIT
        order = np.argsort(files, kind="stable")
        starts = np.flatnonzero(np.diff(files[order], prepend=-1))
        for indices in np.split(order, starts[1:]) if len(order) else ():
            path = self._cache.paths[files[indices[0]]]
            try:
                shard = self._cache.read_shard(path)
            except (SafetensorError, OSError) as error:
                raise RTDError(f"{path}: was removed or damaged during the run: run the command again") from error
            vectors[torch.from_numpy(indices)] = shard[torch.from_numpy(locations[indices] % SHARD_LIMIT)]
        return vectors


class FeatureCache:
    """Vectors that one model computes, by their keys; kept in a folder, or only in this object.

    A file is written for every `SHARD` vectors as soon as they are computed: a killed process loses at most these. Any
    number of processes may fill a folder at once: each computes shards that no other process is computing, and waits
    for the others' at the end. Damaged files are computed again.

    Args:
        folder: of this model alone: its name has to change with the model. None to keep nothing.

    Attributes:
        paths: of the files, in the order in which they were found.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder
        self.paths: list[Path] = []
        self._shards: dict[Path, Tensor | None] = {}  # vectors (N, …) in memory; None if they are in the file
        self._index = KeyIndex()  # of position in `paths` × SHARD_LIMIT + row

    def count_missing(self, keys: Sequence[Key]) -> int:
        """Return how many distinct keys have no vector yet."""
        self._find_shards()
        words = _to_words(keys)
        return len(np.unique(words[self._index.find(words) < 0], axis=0))

    def fetch(self, keys: Sequence[Key], compute: Compute) -> StoredVectors:
        """Return the vectors of keys, after computing the missing ones.

        Args:
            keys: N of them; equal ones are computed once.
            compute: returns a vector for each of up to `SHARD` indices of `keys`; those that it leaves out are not
                kept.

        Returns:
            (N, …) float32, in memory only as far as they are read.

        Raises:
            RTDError: there are no keys, or `compute` left one out.
            WriteError: the folder cannot be written.
        """
        if not keys:
            raise RTDError("no features to compute")
        for _ in range(ATTEMPTS):
            vectors = self._open(self._compute_missing(keys, compute))
            if vectors is not None:
                return vectors
        raise RTDError(f"{self.folder}: cached features cannot be read: remove this folder, or pass another --cache")

    def read_shard(self, path: Path) -> Tensor:
        """Return the vectors of a file, which is mapped into memory for as long as they are used.

        Raises:
            SafetensorError, OSError: the file is damaged or missing.
        """
        shard = self._shards[path]
        if shard is not None:
            return shard
        check_regular(path)
        with safe_open(path, framework="pt") as file:
            return file.get_tensor("vectors")

    def _open(self, locations: np.ndarray) -> StoredVectors | None:
        """Return the vectors at locations; None after forgetting those in damaged files."""
        size, is_whole = None, True
        for position in np.unique(locations // SHARD_LIMIT).tolist():
            path = self.paths[position]
            try:
                size = self.read_shard(path).shape[1:]
            except (SafetensorError, OSError):
                self._forget(path)
                is_whole = False
        return StoredVectors(self, locations, size) if is_whole and size is not None else None

    def _compute_missing(self, keys: Sequence[Key], compute: Compute) -> np.ndarray:
        """Compute the vectors that are missing, and return the locations of all."""
        self._find_shards()
        words = _to_words(keys)
        missing = np.flatnonzero(self._index.find(words) < 0)
        _, first = np.unique(words[missing], axis=0, return_index=True)
        indices = missing[np.sort(first)].tolist()
        pending = [indices[start : start + SHARD] for start in range(0, len(indices), SHARD)]
        while pending:
            pending = [shard for shard in pending if not self._compute_shard(shard, keys, compute)]
            if pending:  # other processes compute these
                time.sleep(POLL)
        locations = self._index.find(words)
        left_out = np.flatnonzero(locations < 0)
        if len(left_out):
            raise RTDError(f"no features of {len(left_out)} of {len(keys)}, the first at index {left_out[0]}")
        return locations

    def _compute_shard(self, shard: Sequence[int], keys: Sequence[Key], compute: Compute) -> bool:
        """Compute a shard's missing vectors; return False if another process is computing the shard."""
        name = hashlib.sha256(b"".join(keys[index] for index in shard)).hexdigest()[:32]
        path = (self.folder or Path()) / f"{name}.safetensors"
        with self._lock(name) as is_locked:
            if not is_locked:
                return False
            known = {key.tobytes() for key in self._read_keys(path)}  # another process may have computed it by now
            indices = [index for index in shard if keys[index] not in known]
            vectors = compute(indices) if indices else {}
            if vectors:
                rows = torch.stack([vector.float().cpu() for vector in vectors.values()])
                self._keep(path, [keys[index] for index in vectors], rows)
        return True

    def _keep(self, path: Path, keys: Sequence[Key], vectors: Tensor) -> None:
        words = _to_words(keys)
        if self.folder is not None:
            with write_atomically(path) as draft:
                save_file({"vectors": vectors, "keys": torch.from_numpy(words.view(np.uint8).copy())}, draft)
        self._add(path, words, vectors if self.folder is None else None)

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

    def _read_keys(self, path: Path) -> np.ndarray:
        """Read and return the keys of a file that is new in the folder; a damaged file counts as missing."""
        words = np.empty((0, WORDS), np.uint64)
        if path in self._shards or not path.exists():
            return words
        try:
            check_regular(path)
            with safe_open(path, framework="np") as file:
                words = _to_words([file.get_tensor("keys").tobytes()])
            self._add(path, words, None)
        except (SafetensorError, OSError, ValueError):
            self._forget(path)
        return words

    def _add(self, path: Path, keys: np.ndarray, vectors: Tensor | None) -> None:
        start = len(self.paths) * SHARD_LIMIT
        self.paths.append(path)
        self._shards[path] = vectors
        self._index.add(keys, np.arange(start, start + len(keys)))

    def _forget(self, damaged: Path) -> None:
        """Count a damaged file's vectors as missing, and remove it, so that it is not read again."""
        self._shards.pop(damaged, None)
        for position, path in enumerate(self.paths):
            if path == damaged:
                self._index.remove(position * SHARD_LIMIT, (position + 1) * SHARD_LIMIT - 1)
        with suppress(OSError):
            damaged.unlink(missing_ok=True)


def _to_words(keys: Sequence[Key]) -> np.ndarray:
    """Return keys as (N, 4) uint64."""
    return np.frombuffer(b"".join(keys), np.uint64).reshape(-1, WORDS)

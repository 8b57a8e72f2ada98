"""Feature vectors on disk, each under what it was computed from."""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import NoneType

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rtd_plugin.errors import RTDError
from rtd_plugin.files import write_atomically

SHARD = 512  # vectors a file
FORMAT = 1
POLL = 0.2  # seconds between looks at what another process computes

Key = bytes
KEY_BYTES = 32


def hash_text(text: str) -> Key:
    """The key of what a vector was computed from, given as a text."""
    return hashlib.sha256(text.encode()).digest()


def hash_module(module: nn.Module, *settings: str) -> str:
    """What a module computes: SHA-256 over its parts with their settings, and all weights' names, shapes, fp32 values.

    Weights alone do not tell: a tower with another activation or number of heads may have the same.
    """
    parts = [(name, type(part).__qualname__, _plain_settings(part)) for name, part in module.named_modules()]
    sha = hashlib.sha256(repr((FORMAT, settings, parts)).encode())
    for name, weight in sorted(module.state_dict().items()):
        sha.update(f"{name}{tuple(weight.shape)}".encode())
        sha.update(weight.detach().float().cpu().contiguous().numpy().data)
    return sha.hexdigest()


def _plain_settings(part: nn.Module) -> list[tuple[str, str]]:
    plain = (bool, int, float, str, tuple, NoneType)
    named = ((name, value) for name, value in vars(part).items() if name != "training" and not name.startswith("_"))
    return sorted((name, repr(value)) for name, value in named if isinstance(value, plain))


class FeatureCache:
    """Vectors that one model computes, by the key of what from; kept in a folder, or only for this process.

    The folder has one file for every `SHARD` vectors, written when they are all there: who is killed loses no more. Any
    number of processes may fill it at once. Each takes files that no other is at, and waits for those at the end.

    Args:
        folder: of this model alone: its name has to change with the model. None to keep nothing.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder
        self._read: set[Path] = set()
        self._places: dict[Key, tuple[Path | Tensor, int]] = {}  # the vectors' file, or they themselves, and the row

    def missing(self, keys: Sequence[Key]) -> int:
        """How many of these keys have no vector yet."""
        self._look()
        return len(set(keys) - self._places.keys())

    def vectors(self, keys: Sequence[Key], compute: Callable[[Sequence[int]], Mapping[int, Tensor]]) -> Tensor:
        """The vectors of keys, computing those that are not there.

        Args:
            keys: N of them; equal ones are computed once.
            compute: gives for some of the numbers 0 … N-1, as a list of at most `SHARD`, a vector of each. What it
                leaves out is not kept.

        Returns:
            (N, …) float32.

        Raises:
            RTDError: `compute` left one out, or the folder cannot be written.
        """
        self._look()
        missing = {key: number for number, key in enumerate(keys) if key not in self._places}
        numbers = sorted(missing.values())
        shards = [numbers[start : start + SHARD] for start in range(0, len(numbers), SHARD)]
        while shards:
            shards = [shard for shard in shards if not self._filled(shard, keys, compute)]
            if shards:  # another process is at them
                time.sleep(POLL)
                self._look()
        if not keys:
            raise RTDError("there is nothing to compute features of")
        left_out = [number for number, key in enumerate(keys) if key not in self._places]
        if left_out:
            raise RTDError(f"no features of {len(left_out)} of {len(keys)}, the first of them number {left_out[0]}")
        wanted: dict[Path | Tensor, list[tuple[int, int]]] = {}
        for number, key in enumerate(keys):
            place, row = self._places[key]
            wanted.setdefault(place, []).append((number, row))
        vectors = None
        for place, pairs in wanted.items():  # a file at a time: all together they may be many
            held = _load(place)
            if vectors is None:
                vectors = held.new_empty(len(keys), *held.shape[1:])
            numbers, rows = (torch.tensor(column) for column in zip(*pairs, strict=True))
            vectors[numbers] = held[rows]
        return vectors

    def _filled(
        self, shard: Sequence[int], keys: Sequence[Key], compute: Callable[[Sequence[int]], Mapping[int, Tensor]]
    ) -> bool:
        """Compute a shard, unless its vectors are there by now or another process is computing them."""
        name = hashlib.sha256(b"".join(keys[number] for number in shard)).hexdigest()[:32]
        with self._alone(name) as alone:
            if not alone:
                return False
            self._look()
            numbers = [number for number in shard if keys[number] not in self._places]
            vectors = compute(numbers) if numbers else {}
            if vectors:
                rows = torch.stack([vectors[number].float().cpu() for number in vectors])
                held = [keys[number] for number in vectors]
                place = rows
                if self.folder is not None:
                    place = self.folder / f"{name}.safetensors"
                    labels = torch.frombuffer(bytearray(b"".join(held)), dtype=torch.uint8).reshape(-1, KEY_BYTES)
                    with write_atomically(place) as draft:
                        save_file({"vectors": rows, "keys": labels}, draft)
                    self._read.add(place)
                self._add(place, held)
        return True

    @contextmanager
    def _alone(self, name: str) -> Iterator[bool]:
        """Whether no other process is at this shard; ends with the process that is, however that ends."""
        if self.folder is None:
            yield True
            return
        try:
            locks = self.folder / "locks"
            locks.mkdir(parents=True, exist_ok=True)
            lock = FileLock(locks / name)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                yield False
                return
        except OSError as error:
            raise RTDError(f"{self.folder}: features cannot be kept there ({error}): pass another --cache") from error
        try:
            yield True
        finally:
            lock.release()

    def _look(self) -> None:
        """Read what has come into the folder. A broken file counts as none, and is written anew."""
        for path in sorted(self.folder.glob("*.safetensors")) if self.folder is not None else ():
            if path not in self._read:
                self._read.add(path)
                with suppress(SafetensorError, OSError), safe_open(path, framework="pt") as file:
                    self._add(path, (row.tobytes() for row in file.get_tensor("keys").numpy()))

    def _add(self, place: Path | Tensor, keys: Iterable[Key]) -> None:
        for row, key in enumerate(keys):
            self._places.setdefault(key, (place, row))


def _load(place: Path | Tensor) -> Tensor:
    if isinstance(place, Tensor):
        return place
    try:
        return load_file(place)["vectors"]
    except (SafetensorError, OSError) as error:
        raise RTDError(f"{place}: kept features that cannot be read ({error}): remove the file") from error

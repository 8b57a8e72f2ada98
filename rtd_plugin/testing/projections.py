"""Checks of an adapter's projection module and of its checkpoints."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rtd_plugin.contract.adapter import Adapter, load_projection
from rtd_plugin.errors import RTDError
from rtd_plugin.testing.fixtures import make_features, randomise, require, require_near

SIZES = ((24, 32), (32, 24))  # D, W
ROWS = 3

Save = Callable[[Any, Path], Any]


def check_projection(adapter: Adapter) -> None:
    """Check that it maps features (B, D) to pseudo tokens, row by row and reproducibly."""
    placeholders = adapter.prompt.encode(condition="").count(adapter.prompt.placeholder_id)
    for size, width in SIZES:
        projection, features = _build_projection(adapter, size, width), make_features(ROWS, size)
        pseudo_tokens = projection(features)
        require(
            isinstance(pseudo_tokens, Tensor),
            f"the projection returns a {type(pseudo_tokens).__name__}, not a tensor",
        )
        shape = tuple(pseudo_tokens.shape)
        several = len(shape) == 3 and shape[1] > 0
        require(
            (len(shape) == 2 or several) and (shape[0], shape[-1]) == (ROWS, width),
            f"features ({ROWS}, {size}) become {shape}, but pseudo tokens of width {width} are ({ROWS}, {width}) "
            f"or ({ROWS}, n, {width})",
        )
        count = shape[1] if several else 1
        require(
            count == 1 or placeholders in (1, count),
            f"{count} pseudo tokens do not fit the {placeholders} placeholders of prompt",
        )
        require(pseudo_tokens.isfinite().all(), "pseudo tokens are not all finite")
        require(
            torch.equal(pseudo_tokens, projection(features)), "the same features give other pseudo tokens next time"
        )
        require((pseudo_tokens[0] - pseudo_tokens[1]).abs().max() > 1e-3, "different features give one pseudo token")
        for row in range(ROWS):
            single = projection(features[row : row + 1])[0]
            require_near(
                single, pseudo_tokens[row], "a row of features gives other pseudo tokens in a batch than alone"
            )


def check_precision(adapter: Adapter) -> None:
    """Check that it works in half precision, which training and hosts use."""
    for dtype in (torch.bfloat16, torch.float16):
        projection, features = _build_projection(adapter, *SIZES[0]), make_features(ROWS, SIZES[0][0])
        exact, rounded = projection(features), projection.to(dtype)(features.to(dtype))
        require(rounded.dtype == dtype, f"features in {dtype} become pseudo tokens in {rounded.dtype}")
        error = (rounded.float() - exact).abs().max() / exact.abs().max()
        require(error < 0.05, f"in {dtype} pseudo tokens are off by {error:.0%}")


def check_checkpoints(adapter: Adapter) -> None:
    """Check that the checkpoints of `projection_checkpoint` and bare state dicts are read back unchanged."""
    for size, width in SIZES:
        projection, features = _build_projection(adapter, size, width), make_features(ROWS, size)
        state = projection.state_dict()
        forms: dict[str, tuple[Save, Mapping[str, Any], str]] = {
            "projection_checkpoint's form": (torch.save, adapter.projection_checkpoint(state), "pt"),
            "the form of a bare state dict": (torch.save, state, "pt"),
            "the form of a bare state dict in safetensors": (save_file, state, "safetensors"),
        }
        for form, (save, checkpoint, suffix) in forms.items():
            with _save_temporarily(checkpoint, save, suffix) as path:
                loaded = load_projection(adapter, path, size, width)
            require_near(loaded(features), projection(features), f"a checkpoint in {form} gives other pseudo tokens")
            require(not loaded.training, "a loaded projection is in training mode")


def check_bad_checkpoints(adapter: Adapter) -> None:
    """Check that an RTDError refuses files that are not checkpoints of the method, or are for another backbone."""
    size, width = SIZES[0]
    state = _build_projection(adapter, size, width).state_dict()
    native = adapter.projection_checkpoint(state)
    for description, checkpoint in _make_bad_checkpoints(adapter, state):
        _require_refused(adapter, checkpoint, size, width, description)
    _require_refused(adapter, native, size + 1, width, "a checkpoint for features of another size")
    _require_refused(adapter, native, size, width + 1, "a checkpoint for token embeddings of another width")


def _make_bad_checkpoints(adapter: Adapter, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Any]]:
    yield "a checkpoint without weights", {}
    yield "the state dict of something else", {"visual.proj": torch.zeros(3, 4)}
    native = adapter.projection_checkpoint(state)
    for key, value in native.items():
        if isinstance(value, Mapping) and value:
            yield f"a checkpoint whose {key} is a list", {**native, key: []}
    for key, weight in state.items():
        rest: dict[str, Any] = {name: value for name, value in state.items() if name != key}
        yield f"a checkpoint without {key}", adapter.projection_checkpoint(rest)
        not_a_tensor: Any = 3
        yield f"a checkpoint whose {key} is not a tensor", adapter.projection_checkpoint({**rest, key: not_a_tensor})
        yield f"a checkpoint whose {key} is empty", adapter.projection_checkpoint({**rest, key: weight.flatten()[:0]})
    extended = {**state, "one.weight.more": torch.zeros(1)}
    yield "a checkpoint with an additional weight", adapter.projection_checkpoint(extended)


def _require_refused(adapter: Adapter, checkpoint: Any, size: int, width: int, description: str) -> None:
    with _save_temporarily(checkpoint, torch.save, "pt") as path:
        try:
            load_projection(adapter, path, size, width)
        except RTDError:
            return
        except Exception as error:  # third-party code may raise anything
            message = f"{description} raises {type(error).__name__}: {error}, not an RTDError"
            raise AssertionError(message) from error
    raise AssertionError(f"{description} is accepted")


def _build_projection(adapter: Adapter, size: int, width: int) -> nn.Module:
    """Build an untrained projection in which every weight matters."""
    projection = adapter.build_projection({}, size, width)
    require(isinstance(projection, nn.Module), f"build_projection returns a {type(projection).__name__}, not a module")
    return randomise(projection).requires_grad_(False)


@contextmanager
def _save_temporarily(checkpoint: Any, save: Save, suffix: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"projection.{suffix}"
        save(checkpoint, path)
        yield path

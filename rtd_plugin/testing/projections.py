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
from rtd_plugin.testing.fixtures import NEAR, features, randomise, require

SIZES = ((24, 32), (32, 24))  # D, W
ROWS = 3


def check_projection(adapter: Adapter) -> None:
    """It maps features (B, D) to pseudo tokens, each row by itself, the same each time."""
    places = adapter.prompt.encode(condition="").count(adapter.prompt.placeholder_id)
    for size, width in SIZES:
        projection, given = _projection(adapter, size, width), features(ROWS, size)
        found = projection(given)
        require(isinstance(found, Tensor), f"the projection gives a {type(found).__name__}, not a tensor")
        shape = tuple(found.shape)
        several = found.ndim == 3 and found.shape[1] > 0
        require(
            (found.ndim == 2 or several) and (shape[0], shape[-1]) == (ROWS, width),
            f"features ({ROWS}, {size}) become {shape}, but pseudo tokens of width {width} are ({ROWS}, {width}) "
            f"or ({ROWS}, n, {width})",
        )
        count = shape[1] if several else 1
        require(count == 1 or places in (1, count), f"{count} pseudo tokens do not fit {places} placeholders of prompt")
        require(found.isfinite().all(), "pseudo tokens are not all finite")
        require(torch.equal(found, projection(given)), "the same features give other pseudo tokens the second time")
        require((found[0] - found[1]).abs().max() > 1e-3, "different features give the same pseudo token")
        for row in range(ROWS):
            alone = projection(given[row : row + 1])[0]
            _require_near(alone, found[row], "a row of features gives another pseudo token in a batch than alone")


def check_precision(adapter: Adapter) -> None:
    """It works in half precision, as training and hosts use it."""
    for dtype in (torch.bfloat16, torch.float16):
        projection, given = _projection(adapter, *SIZES[0]), features(ROWS, SIZES[0][0])
        exact, found = projection(given), projection.to(dtype)(given.to(dtype))
        require(found.dtype == dtype, f"features in {dtype} become pseudo tokens in {found.dtype}")
        error = (found.float() - exact).abs().max() / exact.abs().max()
        require(error < 0.05, f"in {dtype} pseudo tokens are off by {error:.0%}")


def check_checkpoints(adapter: Adapter) -> None:
    """What `projection_checkpoint` makes of weights is read back, and so are the weights alone."""
    for size, width in SIZES:
        projection, given = _projection(adapter, size, width), features(ROWS, size)
        state = projection.state_dict()
        forms = {
            "projection_checkpoint's form": (torch.save, adapter.projection_checkpoint(state), "pt"),
            "the form of a bare state dict": (torch.save, state, "pt"),
            "the form of a bare state dict in safetensors": (save_file, state, "safetensors"),
        }
        for form, (save, checkpoint, ending) in forms.items():
            with _saved(checkpoint, save, ending) as path:
                loaded = load_projection(adapter, path, size, width)
            _require_near(loaded(given), projection(given), f"a checkpoint in {form} gives other pseudo tokens")
            require(not loaded.training, "a loaded projection is in training mode")


def check_bad_checkpoints(adapter: Adapter) -> None:
    """What is no checkpoint of the method, or one for another backbone, is refused with an RTDError."""
    size, width = SIZES[0]
    state = _projection(adapter, size, width).state_dict()
    native = adapter.projection_checkpoint(state)
    for what, checkpoint in _bad_checkpoints(adapter, state):
        _require_refused(adapter, checkpoint, size, width, what)
    _require_refused(adapter, native, size + 1, width, "a checkpoint for features of another size")
    _require_refused(adapter, native, size, width + 1, "a checkpoint for token embeddings of another width")


def _bad_checkpoints(adapter: Adapter, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Any]]:
    yield "a checkpoint without weights", {}
    yield "the state dict of something else", {"visual.proj": torch.zeros(3, 4)}
    native = adapter.projection_checkpoint(state)
    for key, value in native.items():
        if isinstance(value, Mapping) and value:
            yield f"a checkpoint whose {key} is a list", {**native, key: []}
    for key, weight in state.items():
        rest = {name: value for name, value in state.items() if name != key}
        yield f"a checkpoint without {key}", adapter.projection_checkpoint(rest)
        yield f"a checkpoint whose {key} is no tensor", adapter.projection_checkpoint({**rest, key: 3})
        yield f"a checkpoint whose {key} is empty", adapter.projection_checkpoint({**rest, key: weight.flatten()[:0]})
    more = {**state, "one.weight.more": torch.zeros(1)}
    yield "a checkpoint with one weight more", adapter.projection_checkpoint(more)


def _require_refused(adapter: Adapter, checkpoint: Any, size: int, width: int, what: str) -> None:
    with _saved(checkpoint, torch.save, "pt") as path:
        try:
            load_projection(adapter, path, size, width)
        except RTDError:
            return
        except Exception as error:  # an adapter may be anybody's
            raise AssertionError(f"{what} raises {type(error).__name__}: {error}, and no RTDError") from error
    raise AssertionError(f"{what} is accepted")


def _projection(adapter: Adapter, size: int, width: int) -> nn.Module:
    """An untrained projection with weights that show in its results."""
    projection = adapter.build_projection({}, size, width)
    require(isinstance(projection, nn.Module), f"build_projection gives a {type(projection).__name__}, not a module")
    return randomise(projection).requires_grad_(False)


@contextmanager
def _saved(checkpoint: Any, save: Callable[[Any, Path], Any], ending: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"projection.{ending}"
        save(checkpoint, path)
        yield path


def _require_near(found: Tensor, expected: Tensor, problem: str) -> None:
    require(found.shape == expected.shape, f"{problem}: of shape {tuple(found.shape)}, not {tuple(expected.shape)}")
    require(torch.allclose(found, expected, **NEAR), f"{problem}: off by {(found - expected).abs().max():.2g}")

"""Checks of an adapter's projection module and of its checkpoints."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rtd_plugin.contract.adapter import Adapter, ProjectionInputs, build_trained, list_pseudo_tokens, load_projection
from rtd_plugin.errors import RTDError
from rtd_plugin.testing.fixtures import describe_failure, make_inputs, randomise, require, require_near

SIZES = ((24, 32), (32, 24))  # D, W
KEYS = 8  # weights whose absence a check tries, so that a projection of many large ones does not take minutes

Save = Callable[[Any, Path], Any]


def check_projection(adapter: Adapter) -> None:
    """Check that it maps features (B, D) to pseudo tokens, row by row and reproducibly."""
    placeholders = adapter.prompt.encode(condition="").count(adapter.prompt.placeholder_id)
    for size, width in SIZES:
        projection, inputs = _build_projection(adapter, size, width), make_inputs(adapter, size, width)
        pseudo_tokens = _stack_pseudo_tokens(adapter, projection, inputs)
        rows, shape = len(inputs.features), tuple(pseudo_tokens.shape[1:])
        several = len(shape) == 3 and shape[1] > 0
        require(
            (len(shape) == 2 or several) and (shape[0], shape[-1]) == (rows, width),
            f"features ({rows}, {size}) become {shape}, but pseudo tokens of width {width} are ({rows}, {width}) "
            f"or ({rows}, n, {width})",
        )
        count = shape[1] if several else 1
        require(
            count == 1 or placeholders in (1, count),
            f"{count} pseudo tokens do not fit the {placeholders} placeholders of prompt",
        )
        require(pseudo_tokens.isfinite().all(), "pseudo tokens are not all finite")
        again = _stack_pseudo_tokens(adapter, projection, inputs)
        require(torch.equal(pseudo_tokens, again), "the same features give different pseudo tokens on a second call")
        first, second = pseudo_tokens[:, 0], pseudo_tokens[:, 1]
        require((first - second).abs().max() > 1e-3, "different features give one pseudo token")
        for row in range(rows):
            alone = slice(row, row + 1)
            single = replace(inputs, features=inputs.features[alone], prompts=inputs.prompts[alone])
            problem = "a row of features gives different pseudo tokens in a batch and alone"
            require_near(_stack_pseudo_tokens(adapter, projection, single), pseudo_tokens[:, alone], problem)


def check_precision(adapter: Adapter) -> None:
    """Check that it works in half precision, which training and hosts use."""
    for dtype in (torch.bfloat16, torch.float16):
        projection = _build_projection(adapter, *SIZES[0])
        exact = _stack_pseudo_tokens(adapter, projection, make_inputs(adapter, *SIZES[0]))
        rounded = _stack_pseudo_tokens(adapter, projection.to(dtype), make_inputs(adapter, *SIZES[0], dtype))
        require(rounded.dtype == dtype, f"features in {dtype} become pseudo tokens in {rounded.dtype}")
        error = (rounded.float() - exact).abs().max() / exact.abs().max()
        require(error < 0.05, f"in {dtype} pseudo tokens are off by {error:.0%}")


def check_checkpoints(adapter: Adapter) -> None:
    """Check that the checkpoints of `projection_checkpoint` and bare state dicts are read back unchanged."""
    for size, width in SIZES:
        projection, inputs = _build_projection(adapter, size, width), make_inputs(adapter, size, width)
        state = projection.state_dict()
        forms: dict[str, tuple[Save, Mapping[str, Any]]] = {
            "projection_checkpoint's form": (torch.save, adapter.projection_checkpoint(state)),
        }
        if not adapter.projection_files:
            forms["the form of a bare state dict"] = (torch.save, state)
            forms["the form of a bare state dict in safetensors"] = (save_file, state)
        for form, (save, checkpoint) in forms.items():
            with tempfile.TemporaryDirectory() as folder:
                contents = checkpoint if adapter.projection_files else {"projection": checkpoint}
                files = {name: Path(folder) / f"{name}.pt" for name in contents}
                for name, path in files.items():
                    save(contents[name], path)
                source = files if adapter.projection_files else files["projection"]
                loaded = load_projection(adapter, source, size, width)
            problem = f"a checkpoint in {form} gives different pseudo tokens"
            expected = _stack_pseudo_tokens(adapter, projection, inputs)
            require_near(_stack_pseudo_tokens(adapter, loaded, inputs), expected, problem)
            require(not loaded.training, "a loaded projection is in training mode")


def check_bad_checkpoints(adapter: Adapter) -> None:
    """Check that an RTDError refuses files that are not checkpoints of the method, or are for another backbone."""
    size, width = SIZES[0]
    state = _build_projection(adapter, size, width).state_dict()
    native = adapter.projection_checkpoint(state)
    for description, checkpoint in _make_bad_checkpoints(adapter, native, state):
        _require_refused(adapter, checkpoint, size, width, description)
    _require_refused(adapter, native, size + 1, width, "a checkpoint for features of another size")
    _require_refused(adapter, native, size, width + 1, "a checkpoint for token embeddings of another width")


def _make_bad_checkpoints(
    adapter: Adapter, native: Mapping[str, Any], state: Mapping[str, Tensor]
) -> Iterator[tuple[str, Any]]:
    other = {"visual.proj": torch.zeros(3, 4)}
    files = adapter.projection_files
    yield "a checkpoint without weights", {name: {} for name in files}
    yield "the state dict of something else", dict.fromkeys(files, other) if files else other
    for key, value in native.items():
        if isinstance(value, Mapping) and value and not files:
            yield f"a checkpoint whose {key} is a list", {**native, key: []}
    for key in list(state)[:: -(-len(state) // KEYS)]:
        weight = state[key]
        yield f"a checkpoint without {key}", _edit(native, weight, lambda name, value: {})
        yield f"a checkpoint whose {key} is not a tensor", _edit(native, weight, lambda name, value: {name: 3})
        empty = _edit(native, weight, lambda name, value: {name: value.flatten()[:0]})
        yield f"a checkpoint whose {key} is empty", empty
    weight, more = next(iter(state.values())), {"one.weight.more": torch.zeros(1)}
    yield "a checkpoint with an additional weight", _edit(native, weight, lambda name, value: {name: value, **more})


def _edit(
    checkpoint: Mapping[str, Any], weight: Tensor, change: Callable[[str, Tensor], Mapping[str, Any]]
) -> dict[str, Any]:
    """Return a checkpoint with the entry of a weight, in any dictionary, replaced by the entries of `change`."""
    edited: dict[str, Any] = {}
    for name, value in checkpoint.items():
        if isinstance(value, Mapping):
            edited[name] = _edit(value, weight, change)
        elif isinstance(value, Tensor) and value.data_ptr() == weight.data_ptr():
            edited |= change(name, value)
        else:
            edited[name] = value
    return edited


def _require_refused(adapter: Adapter, checkpoint: Any, size: int, width: int, description: str) -> None:
    try:
        build_trained(adapter, checkpoint, size, width, "checkpoint")
    except RTDError:
        return
    except Exception as error:  # third-party code may raise anything
        raise AssertionError(f"{description} raises {describe_failure(error)}, not an RTDError") from error
    raise AssertionError(f"{description} is accepted")


def _stack_pseudo_tokens(adapter: Adapter, projection: nn.Module, inputs: ProjectionInputs) -> Tensor:
    """Return the pseudo tokens of the m composed queries that the method averages, (m, B, W) or (m, B, n, W)."""
    listed = list_pseudo_tokens(adapter, projection, inputs)
    kinds = ", ".join(dict.fromkeys(type(each).__name__ for each in listed))
    require(
        listed and all(isinstance(each, Tensor) for each in listed),
        f"the projection returns {'a tuple of ' if len(listed) != 1 else 'a '}{kinds or 'nothing'}, not a tensor",
    )
    require(
        len(listed) == 1 or adapter.reads_queries,
        "the projection returns a tuple: a method that averages features overrides `project`, which returns it",
    )
    shapes = list(dict.fromkeys(tuple(each.shape) for each in listed))
    require(len(shapes) == 1, f"the pseudo tokens of the averaged queries have different shapes, {shapes}")
    return torch.stack(listed)


def _build_projection(adapter: Adapter, size: int, width: int) -> nn.Module:
    """Build an untrained projection in which every weight matters."""
    projection = adapter.build_projection({}, size, width)
    require(isinstance(projection, nn.Module), f"build_projection returns a {type(projection).__name__}, not a module")
    return randomise(projection).requires_grad_(False)

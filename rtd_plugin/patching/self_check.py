"""Compares a host's function with an exact encoding, both of a tiny model; runs as a separate process.

`python -m rtd_plugin.patching.self_check RESULT ROOT FILE MODULE NAME READ EXAMPLE [ARGUMENTS]` writes the result as
JSON to the open file of number RESULT: what the host prints may be anything, at any time.
"""

import importlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rtd_plugin.clip.tower import TextTower
from rtd_plugin.contract.composition import Composition, CompositionPoint, compose
from rtd_plugin.patching.function_reference import import_function
from rtd_plugin.patching.function_replacement import find_function
from rtd_plugin.patching.host_model import copy_text_tower
from rtd_plugin.testing.fixtures import randomise

TOLERANCE = 1e-3  # of the largest feature


def check(
    root: str, file: str, module: str, name: str, read: str, example: str, arguments: str | None = None
) -> dict[str, object]:
    """Compare what a host's function returns with the exact encoding of the same weights by `TextTower`.

    If they are equal for the example, batches of other forms follow: what the host's function accepts, `read` must too.

    Args:
        root: of the host.
        file, module, name: of the composition point.
        read, example, arguments: the adapter's functions, as `module:function`.

    Returns:
        `outcome`: "exact", "wrong", "misread" (by the adapter), or "failed", with a `message`; the `difference`,
        relative to the largest value, None if it is not finite; and `patchable`, whether a patch composes here.
    """
    package = Path(file).parents[module.count(".")]  # its modules are imported from here
    sys.path[:0] = [str(Path(root) / package), root]
    result: dict[str, Any] = {"outcome": "failed", "difference": None, "message": "", "patchable": False}
    try:
        imported = importlib.import_module(module)
        function = find_function(imported, name)
        if function is None:
            raise LookupError(f"{module} has no function {name}")
        call = import_function(example)(imported)
        composition = import_function(read)(*call)
        randomise(composition.model)
        with torch.no_grad():
            tower = copy_text_tower(composition.model, None, None)
            expected = compose(tower, composition)
            result["patchable"] = True
            difference = _measure_difference(function(*call), expected)
    except Exception as error:  # a host may raise anything in an environment that it was not written for
        return {**result, "message": f"{type(error).__name__}: {error}"}
    if not math.isfinite(difference):
        return {**result, "outcome": "wrong", "message": "returns values that are not finite"}
    result["difference"] = difference
    if difference > TOLERANCE:
        return {**result, "outcome": "wrong"}
    point = CompositionPoint(
        file, (module,), name, import_function(read), import_function(arguments) if arguments else None
    )
    problem = _find_misreading(function, point, composition, tower)
    return {**result, "outcome": "misread" if problem else "exact", "message": problem or ""}


@torch.no_grad()
def _find_misreading(
    function: Callable[..., Any], point: CompositionPoint, example: Composition, tower: TextTower
) -> str | None:
    """Return which form of a batch the host's function composes, and the adapter does not or otherwise."""
    for form, tokens, pseudo_tokens in _vary(example):
        call = point.call(example.model, tokens, pseudo_tokens)
        if call is None:
            continue
        try:
            result = function(**call)
        except Exception:  # then the adapter need not compose it either
            continue
        if not all(isinstance(value, Tensor) and value.isfinite().all() for value in _as_tuple(result)):
            continue
        try:
            difference = _measure_difference(result, compose(tower, point.read(**call)))
        except Exception as error:  # third-party code may raise anything
            return f"{form}: the host composes it, but under a patch it raises {type(error).__name__}: {error}"
        if not difference <= TOLERANCE:
            return f"{form}: differs from the host by {difference:.0%}"
    return None


def _vary(example: Composition) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield batches of other forms than the example: what they are, tokens and pseudo tokens."""
    tokens, pseudo_tokens, placeholders = example.tokens, example.pseudo_tokens, example.placeholder
    if not isinstance(placeholders, Tensor) or placeholders.ndim == 0:
        placeholders = tokens == placeholders
    plain = tokens.masked_fill(placeholders, 1)
    images = torch.cat([pseudo_tokens, -pseudo_tokens, pseudo_tokens])
    yield "one text with several images", tokens[:1], images[:3]
    yield "several texts with one image", tokens, images[:1]
    yield "texts without a placeholder", plain, pseudo_tokens
    yield "a text without a placeholder among others", torch.cat([plain[:1], tokens[:1], tokens[-1:]]), images[:3]


def _measure_difference(result: Any, expected: Any) -> float:
    """Return the largest relative difference of features, and of hidden states where the host returns them.

    Raises:
        TypeError: the result has another form than expected.
    """
    results, expectations = _as_tuple(result), _as_tuple(expected)
    if [getattr(value, "shape", None) for value in results] != [value.shape for value in expectations]:
        shapes = ", ".join(str(tuple(value.shape)) for value in expectations)
        raise TypeError(f"returned something else than tensors of the shapes {shapes}")
    pairs = zip(results, expectations, strict=True)
    differences = [(value - exact).abs().max() / exact.abs().max() for value, exact in pairs]
    return torch.stack(differences).max().item()  # NaN if one of them is


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


if __name__ == "__main__":
    with open(int(sys.argv[1]), "w", encoding="utf-8") as file:
        json.dump(check(*sys.argv[2:]), file)

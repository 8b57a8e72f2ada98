"""Compares a host's function with an exact encoding, both of a tiny model; runs as a separate process.

`python -m rtd_plugin.patching.self_check ROOT FILE MODULE NAME READ EXAMPLE` prints the result as JSON.
"""

import importlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch

from rtd_plugin.contract.composition import compose
from rtd_plugin.patching.function_reference import import_function
from rtd_plugin.patching.function_replacement import find_function
from rtd_plugin.patching.host_model import copy_text_tower
from rtd_plugin.testing.fixtures import randomise

TOLERANCE = 1e-3  # of the largest feature


def check(root: str, file: str, module: str, name: str, read: str, example: str) -> dict[str, object]:
    """Compare what a host's function returns with the exact encoding of the same weights by `TextTower`.

    Args:
        root: of the host.
        file, module, name: of the composition point.
        read, example: the adapter's functions, as `module:function`.

    Returns:
        `outcome`: "exact", "wrong", or "failed", with a `message`; and the `difference`, relative to the largest value,
        None if it is not finite.
    """
    package = Path(file).parents[module.count(".")]  # its modules are imported from here
    sys.path[:0] = [str(Path(root) / package), root]
    try:
        imported = importlib.import_module(module)
        function = find_function(imported, name)
        if function is None:
            raise LookupError(f"{module} has no function {name}")
        arguments = import_function(example)(imported)
        composition = import_function(read)(*arguments)
        randomise(composition.model)
        with torch.no_grad():
            expected = compose(copy_text_tower(composition.model, None, None), composition)
            difference = _measure_difference(function(*arguments), expected)
    except Exception as error:  # a host may raise anything in an environment that it was not written for
        return {"outcome": "failed", "difference": None, "message": f"{type(error).__name__}: {error}"}
    if not math.isfinite(difference):
        return {"outcome": "wrong", "difference": None, "message": "returns values that are not finite"}
    return {"outcome": "exact" if difference <= TOLERANCE else "wrong", "difference": difference, "message": ""}


def _measure_difference(result: Any, expected: Any) -> float:
    """Return the largest relative difference of features, and of hidden states where the host returns them.

    Raises:
        TypeError: the result has another form than expected.
    """
    results = result if isinstance(result, tuple) else (result,)
    expectations = expected if isinstance(expected, tuple) else (expected,)
    if [getattr(value, "shape", None) for value in results] != [value.shape for value in expectations]:
        shapes = ", ".join(str(tuple(value.shape)) for value in expectations)
        raise TypeError(f"returned something else than tensors of the shapes {shapes}")
    pairs = zip(results, expectations, strict=True)
    differences = [(value - exact).abs().max() / exact.abs().max() for value, exact in pairs]
    return torch.stack(differences).max().item()  # NaN if one of them is


if __name__ == "__main__":
    print(json.dumps(check(*sys.argv[1:])))

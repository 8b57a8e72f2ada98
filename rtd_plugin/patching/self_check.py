"""Composes with a host's own function and a tiny model, and compares with an exact encoding: in a process of its own.

`python -m rtd_plugin.patching.self_check ROOT FILE MODULE NAME READ EXAMPLE` prints what came of it as JSON.
"""

import importlib
import json
import sys
from pathlib import Path

import torch
from torch import Tensor

from rtd_plugin.contract.composition import compose
from rtd_plugin.patching.function_reference import import_function
from rtd_plugin.patching.function_replacement import find_function
from rtd_plugin.patching.host_model import text_tower
from rtd_plugin.testing.fixtures import randomise

TOLERANCE = 1e-3  # of the largest feature


def check(root: str, file: str, module: str, name: str, read: str, example: str) -> dict[str, object]:
    """Compare what a host's function returns with the exact encoding of the same weights by `TextTower`.

    Args:
        root: of the host.
        file, module, name: of the composition point.
        read, example: the adapter's functions, as `module:function`.

    Returns:
        `outcome`: "exact", "wrong", or "failed", with a `message`; and the `difference`, by the largest feature.
    """
    package = Path(file).parents[module.count(".")]  # its modules are imported from here
    sys.path[:0] = [str(Path(root) / package), root]
    try:
        imported = importlib.import_module(module)
        function = find_function(imported, name)
        arguments = import_function(example)(imported)
        composition = import_function(read)(*arguments)
        randomise(composition.model)
        with torch.no_grad():
            expected = _features(compose(text_tower(composition.model, None, None), composition))
            features = _features(function(*arguments))
        difference = ((features - expected).abs().max() / expected.abs().max()).item()
    except Exception as error:  # whatever a host raises in an environment that it was not written for
        return {"outcome": "failed", "difference": None, "message": f"{type(error).__name__}: {error}"}
    outcome = "exact" if difference <= TOLERANCE else "wrong"  # also if it is not a number
    return {"outcome": outcome, "difference": difference, "message": ""}


def _features(encoding: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """Return the features (B, D) of an encoding, which may have hidden states beside them."""
    return encoding[0] if isinstance(encoding, tuple) else encoding


if __name__ == "__main__":
    print(json.dumps(check(*sys.argv[1:])))

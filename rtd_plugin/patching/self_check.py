"""Composes with a host's own function and a tiny model, and compares with an exact encoding: in a process of its own.

`python -m rtd_plugin.patching.self_check ROOT FILE MODULE NAME READ EXAMPLE` prints what came of it as JSON.
"""

import importlib
import json
import sys
from pathlib import Path

import torch
from torch import nn

from rtd_plugin.contract.composition import compose
from rtd_plugin.patching.function_reference import import_function
from rtd_plugin.patching.function_replacement import find_function
from rtd_plugin.patching.host_model import text_tower

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
        _randomise(composition.model)
        with torch.no_grad():
            expected = compose(text_tower(composition.model, None, None), composition)
            found = function(*arguments)
    except Exception as error:  # whatever a host raises in an environment that it was not written for
        return {"outcome": "failed", "difference": None, "message": f"{type(error).__name__}: {error}"}
    difference = ((found - expected).abs().max() / expected.abs().max()).item()
    outcome = "exact" if difference <= TOLERANCE else "wrong"  # also if it is not a number
    return {"outcome": outcome, "difference": difference, "message": ""}


@torch.no_grad()
def _randomise(model: nn.Module) -> None:
    """Weights that all matter, so that attention is not flat and no mistake is lost in small numbers."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.ndim < 2:
            weight.copy_(0.2 * noise + (1 if name.endswith("weight") else 0))
        else:
            weight.copy_(noise if "embedding" in name else noise * weight.shape[-1] ** -0.5)


if __name__ == "__main__":
    print(json.dumps(check(*sys.argv[1:])))

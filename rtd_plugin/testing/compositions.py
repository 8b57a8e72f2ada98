"""Checks of an adapter's composition points: what they say of the host, and what they read from its arguments."""

import inspect
from collections.abc import Iterator
from pathlib import PurePosixPath

import torch
from torch import Tensor

from rtd_plugin.clip.tokens import CONTEXT_LENGTH
from rtd_plugin.contract.adapter import Adapter
from rtd_plugin.contract.composition import Composition, CompositionPoint, compose
from rtd_plugin.testing.fixtures import CONDITIONS, NEAR, pseudo_tokens, require, small_tower
from rtd_plugin.testing.reference import encode_slowly


def check_points(adapter: Adapter) -> None:
    """Each names a function that a host's programs can import."""
    for point in adapter.composition_points:
        require(isinstance(point, CompositionPoint), f"{point!r} in composition_points is no CompositionPoint")
        path = PurePosixPath(point.file)
        require(
            path.suffix == ".py" and not path.is_absolute() and "\\" not in point.file,
            f"the file {point.file!r} is to be a Python file relative to the host's root, with forward slashes",
        )
        require(point.modules, f"{point.file}: no module is named under which the host imports it")
        parts = path.with_suffix("").parts
        for module in point.modules:
            names = tuple(module.split("."))
            require(names == parts[-len(names) :], f"the module {module!r} cannot be the file {point.file}")
        require(
            all(part.isidentifier() for part in point.name.split(".")),
            f"{point.file}: {point.name!r} is no function's name: write `function` or `Class.method`",
        )
        kinds = {parameter.kind for parameter in point.signature.parameters.values()}
        require(
            inspect.Parameter.VAR_POSITIONAL not in kinds,
            f"{point.name}: `read` takes *arguments; its parameters are to be those of the host's function",
        )


def check_compositions(adapter: Adapter) -> None:
    """Each turns a host's arguments, for texts in a batch and alone, into what the written-out encoder gives."""
    tower = small_tower()
    tokens = adapter.prompt.tokenize(CONDITIONS)
    padding = torch.zeros(len(tokens), CONTEXT_LENGTH - tokens.shape[1], dtype=tokens.dtype)
    tokens = torch.cat([tokens, padding], dim=1)  # as hosts' tokenizers have it
    vectors = pseudo_tokens(adapter, len(tokens), tower.width)
    for point in adapter.composition_points:
        asked = 0
        for texts, given in _batches(tokens, vectors):
            arguments = point.call(tower, texts, given)
            if arguments is None:
                continue
            asked += 1
            composition = point.read(**arguments)
            require(isinstance(composition, Composition), f"{point.name}: `read` gives {composition!r}")
            require(composition.model is tower, f"{point.name}: the composition's model is not the host's")
            with torch.no_grad():
                found = compose(tower, composition)
            found = found[0] if isinstance(found, tuple) else found
            expected = _expected(adapter, texts, given)
            require(
                found.shape == expected.shape,
                f"{point.name}: features of shape {tuple(found.shape)} for {len(texts)} texts",
            )
            error = (found - expected).abs().max()
            require(
                torch.allclose(found, expected, **NEAR),
                f"{point.name}: features of {len(texts)} texts are off by {error:.2g}: "
                "does `read` put each text's pseudo tokens where its placeholders are?",
            )
        require(asked, f"{point.name}: its arguments call the host for no batch, not even for one text alone")


def _batches(tokens: Tensor, vectors: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Texts with their pseudo tokens: all together, each alone, and as other integers."""
    yield tokens, vectors
    yield from zip(tokens.split(1), vectors.split(1), strict=True)
    yield tokens[:1].int(), vectors[:1]


def _expected(adapter: Adapter, tokens: Tensor, vectors: Tensor) -> Tensor:
    tower, placeholder = small_tower(), adapter.prompt.placeholder_id
    pairs = zip(tokens.tolist(), vectors, strict=True)
    return torch.stack([encode_slowly(tower, row, v.reshape(-1, tower.width), placeholder) for row, v in pairs])

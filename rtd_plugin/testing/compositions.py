"""Checks of an adapter's composition points: their description of the host, and how they read its arguments."""

import inspect
from collections.abc import Iterator
from pathlib import PurePosixPath

import torch
from torch import Tensor

from rtd_plugin.clip.tokens import CONTEXT_LENGTH
from rtd_plugin.contract.adapter import Adapter
from rtd_plugin.contract.composition import Composition, CompositionPoint, compose
from rtd_plugin.testing.fixtures import CONDITIONS, build_small_tower, make_pseudo_tokens, measure_error, require
from rtd_plugin.testing.reference import encode_slowly


def check_points(adapter: Adapter) -> None:
    """Check that each names a function that a host's programs can import."""
    for point in adapter.composition_points:
        require(isinstance(point, CompositionPoint), f"{point!r} in composition_points is not a CompositionPoint")
        path = PurePosixPath(point.file)
        require(
            path.suffix == ".py" and not path.is_absolute() and "\\" not in point.file,
            f"the file {point.file!r} must be a Python file relative to the host's root, with forward slashes",
        )
        require(point.modules, f"{point.file}: `modules` is empty: name the modules as which the host imports it")
        folders = path.with_suffix("").parts
        for module in point.modules:
            names = tuple(module.split("."))
            require(names == folders[-len(names) :], f"the module {module!r} cannot be the file {point.file}")
        require(
            all(name.isidentifier() for name in point.name.split(".")),
            f"{point.file}: {point.name!r} is not a function's name: write `function` or `Class.method`",
        )
        kinds = {parameter.kind for parameter in point.signature.parameters.values()}
        require(
            inspect.Parameter.VAR_POSITIONAL not in kinds,
            f"{point.name}: `read` takes *arguments; its parameters must be those of the host's function",
        )


def check_compositions(adapter: Adapter) -> None:
    """Check that each composes as the reference encoder does, for texts in a batch and alone."""
    tower = build_small_tower()
    tokens = adapter.prompt.tokenize(CONDITIONS)
    padding = torch.zeros(len(tokens), CONTEXT_LENGTH - tokens.shape[1], dtype=tokens.dtype)
    tokens = torch.cat([tokens, padding], dim=1)  # as hosts' tokenizers pad
    pseudo_tokens = make_pseudo_tokens(adapter, len(tokens), tower.width)
    for point in adapter.composition_points:
        calls = 0
        for texts, vectors in _make_batches(tokens, pseudo_tokens):
            arguments = point.call(tower, texts, vectors)
            if arguments is None:
                continue
            calls += 1
            composition = point.read(**arguments)
            require(
                isinstance(composition, Composition), f"{point.name}: `read` returns {composition!r}, not a Composition"
            )
            require(composition.model is tower, f"{point.name}: the composition's model is not the host's model")
            with torch.no_grad():
                encoding = compose(tower, composition)
            features = encoding[0] if isinstance(encoding, tuple) else encoding
            expected = _encode_expected(adapter, texts, vectors)
            require(
                features.shape == expected.shape,
                f"{point.name}: features of shape {tuple(features.shape)} for {len(texts)} texts",
            )
            error = measure_error(features, expected)
            require(
                error is None,
                f"{point.name}: features of {len(texts)} texts are off by {error or 0:.2g}: "
                "does `read` put each text's pseudo tokens where its placeholders are?",
            )
        require(calls, f"{point.name}: `arguments` returns None for every batch, even for a single text")


def _make_batches(tokens: Tensor, pseudo_tokens: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield texts with their pseudo tokens: all in one batch, each alone, and one as int32."""
    yield tokens, pseudo_tokens
    yield from zip(tokens.split(1), pseudo_tokens.split(1), strict=True)
    yield tokens[:1].int(), pseudo_tokens[:1]


def _encode_expected(adapter: Adapter, tokens: Tensor, pseudo_tokens: Tensor) -> Tensor:
    tower, placeholder = build_small_tower(), adapter.prompt.placeholder_id
    pairs = zip(tokens.tolist(), pseudo_tokens, strict=True)
    return torch.stack([encode_slowly(tower, row, v.reshape(-1, tower.width), placeholder) for row, v in pairs])

"""Checks of an adapter's composition points: their description of the host, and how they read its arguments."""

import inspect
from pathlib import PurePosixPath

import torch
from torch.nn import functional as F

from rtd_plugin.clip.tokens import CONTEXT_LENGTH
from rtd_plugin.contract.adapter import Adapter
from rtd_plugin.contract.composition import Composition, CompositionPoint, compose
from rtd_plugin.testing.fixtures import (
    CONDITIONS,
    build_small_tower,
    encode_expected,
    make_pseudo_tokens,
    require,
    require_near,
)


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
    tokens = F.pad(tokens, (0, CONTEXT_LENGTH - tokens.shape[1]))  # as hosts' tokenizers pad
    pseudo_tokens = make_pseudo_tokens(adapter, len(tokens), tower.width)
    batches = [
        (tokens, pseudo_tokens),
        *zip(tokens.split(1), pseudo_tokens.split(1), strict=True),
        (tokens[:1].int(), pseudo_tokens[:1]),
    ]
    for point in adapter.composition_points:
        calls = [(batch, call) for batch in batches if (call := point.call(tower, *batch)) is not None]
        require(calls, f"{point.name}: `arguments` returns None for every batch, even for a single text")
        for (texts, vectors), call in calls:
            composition = point.read(**call)
            require(
                isinstance(composition, Composition), f"{point.name}: `read` returns {composition!r}, not a Composition"
            )
            require(composition.model is tower, f"{point.name}: the composition's model is not the host's model")
            with torch.no_grad():
                encoding = compose(tower, composition)
            require_near(
                encoding[0] if isinstance(encoding, tuple) else encoding,
                encode_expected(adapter, texts, vectors),
                f"{point.name}: features of {len(texts)} texts are wrong, as if `read` did not put each text's pseudo "
                "tokens where its placeholders are",
            )

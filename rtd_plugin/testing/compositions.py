"""Checks of an adapter's composition points: their description of the host, and how they read its arguments."""

import inspect
from pathlib import PurePosixPath

import torch
from torch import Tensor
from torch.nn import functional as F

from rtd_plugin.clip.tokens import CONTEXT_LENGTH
from rtd_plugin.contract.adapter import Adapter
from rtd_plugin.contract.composition import Composition, CompositionPoint, compose
from rtd_plugin.errors import RTDError
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
    """Check that each composes as the reference encoder does, for texts in a batch and alone.

    Batches of other forms (one text or one image for all, texts without a placeholder) may raise an RTDError, as some
    hosts' functions fail on them; `rtd-plugin doctor` checks whether this host's does.
    """
    tower = build_small_tower()
    tokens = adapter.prompt.tokenize(CONDITIONS)
    tokens = F.pad(tokens, (0, CONTEXT_LENGTH - tokens.shape[1]))  # as hosts' tokenizers pad
    plain = tokens.masked_fill(tokens == adapter.prompt.placeholder_id, 1)
    images = make_pseudo_tokens(adapter, tower.width)
    batches = [
        (tokens, images),
        *zip(tokens.split(1), images.split(1), strict=True),
        (tokens[:1].int(), images[:1]),
    ]
    forms = {
        "one text with several images": (tokens[:1], images),
        "several texts with one image": (tokens, images[:1]),
        "texts without a placeholder": (plain, images),
        "a text without a placeholder among others": (torch.cat([plain[:1], tokens[1:]]), images),
    }
    for point in adapter.composition_points:
        composed = [_compare(adapter, point, texts, vectors) for texts, vectors in batches]
        require(any(composed), f"{point.name}: `arguments` returns None for every batch, even for a single text")
        for form, (texts, vectors) in forms.items():
            try:
                _compare(adapter, point, texts, vectors)
            except RTDError:
                continue
            except AssertionError as fault:
                raise AssertionError(f"{form}: {fault}") from fault


def _compare(adapter: Adapter, point: CompositionPoint, texts: Tensor, vectors: Tensor) -> bool:
    """Compare a composition with the reference encoder's; return False if the host does not compose such a batch."""
    tower = build_small_tower()
    call = point.call(tower, texts, vectors)
    if call is None:
        return False
    composition = point.read(**call)
    require(isinstance(composition, Composition), f"{point.name}: `read` returns {composition!r}, not a Composition")
    require(composition.model is tower, f"{point.name}: the composition's model is not the host's model")
    with torch.no_grad():
        encoding = compose(tower, composition)
    features = encoding[0] if isinstance(encoding, tuple) else encoding
    problem = "as if `read` did not put each text's pseudo tokens where its placeholders are"
    expected = encode_expected(adapter, texts, vectors)
    require_near(features, expected, f"{point.name}: features of {len(expected)} texts are wrong, {problem}")
    return True

"""Composition points describe a host's function; compositions are encoded as by the host."""

import dataclasses
import inspect

import pytest
import torch
from rtd_adapters.lincir import LinCIR
from rtd_adapters.pic2word import Pic2Word
from rtd_adapters.searle import SEARLE

from rtd_plugin.contract.adapter import Adapter
from rtd_plugin.contract.composition import Composition, CompositionPoint, compose
from rtd_plugin.errors import RTDError

W, END = 32, 299
POINTS = [point for adapter in (LinCIR(), Pic2Word(), SEARLE()) for point in adapter.composition_points]


def read(clip, /, text: torch.Tensor, vectors, *, blend: float = 0.5, **rest) -> Composition:
    return Composition(clip, text, vectors, 259)


def test_the_signature_is_that_of_read_without_annotations():
    point = CompositionPoint("a/b.py", ("b",), "f", read)
    assert str(point.signature) == "(clip, /, text, vectors, *, blend=0.5, **rest)"
    assert point.signature != inspect.signature(read)


def test_points_cannot_be_changed():
    point = CompositionPoint("a/b.py", ("b",), "f", read)
    with pytest.raises(dataclasses.FrozenInstanceError):
        point.name = "g"
    with pytest.raises(dataclasses.FrozenInstanceError):
        read(None, None, None).placeholder = 3


@pytest.mark.parametrize("point", POINTS, ids=lambda point: f"{point.file}: {point.name}")
def test_shipped_points_name_importable_modules(point):
    *folders, stem = point.file.removesuffix(".py").split("/")
    for module in point.modules:
        names = module.split(".")
        assert names == [*folders, stem][-len(names) :], "a module's name ends in that of its file"
    assert all(name.isidentifier() for name in point.name.split("."))


def test_an_adapter_may_have_no_points():
    assert Adapter.composition_points == ()


@pytest.mark.parametrize("hidden_states", [False, True])
@pytest.mark.parametrize("as_mask", [False, True])
def test_compose_encodes_as_the_host(openai, tokenise, assert_equal, as_mask, hidden_states):
    """A placeholder's id and its positions are equivalent; (B, n, W) makes room, as with three tokens at one $."""
    tokens, pseudo = tokenise([[5, 265, 7], [265, 2, 3]]), torch.randn(2, 3, W)
    longer = tokenise([[5, 0, 0, 0, 7], [0, 0, 0, 2, 3]])
    positions = {(0, 2): (0, 0), (0, 3): (0, 1), (0, 4): (0, 2), (1, 1): (1, 0), (1, 2): (1, 1), (1, 3): (1, 2)}
    expected, _ = openai.encode_with(longer, {position: pseudo[index] for position, index in positions.items()})
    short = tokens[:, :9]  # leaves room in the context
    placeholder = short == 265 if as_mask else 265
    with torch.no_grad():
        features = compose(openai.tower, Composition(openai.model, short, pseudo, placeholder, hidden_states))
    if hidden_states:
        assert features[1].shape == (2, 11, W)
        torch.testing.assert_close(features[1][torch.arange(2), [6, 6]] @ openai.tower.text_projection, expected)
        features = features[0]
    assert_equal(features, expected)


@pytest.mark.parametrize("placeholder", [265, END + 1, torch.tensor(265)], ids=["id", "beyond CLIP's", "tensor"])
@pytest.mark.parametrize("n", [1, 3])
def test_a_text_without_a_placeholder_is_encoded_unchanged(openai, tokenise, assert_equal, placeholder, n):
    """Beside one that has it; some hosts add a token to CLIP's for it, whose id is larger than the end token's."""
    tokens, pseudo = tokenise([[5, 8, placeholder], [7], [placeholder, 2]])[:, :9], torch.randn(3, n, W)
    texts = tokenise([[5, 8, *[0] * n], [7], [*[0] * n, 2]])
    vectors = {(row, at + k): pseudo[row, k] for row, at in ((0, 3), (2, 1)) for k in range(n)}
    with torch.no_grad():
        features = compose(openai.tower, Composition(openai.model, tokens, pseudo, placeholder))
    assert_equal(features, openai.encode_with(texts, vectors)[0])


@pytest.mark.parametrize(("texts", "images"), [(1, 3), (3, 1)])
@pytest.mark.parametrize("as_mask", [False, True])
def test_one_text_or_one_image_serves_all(openai, tokenise, assert_equal, texts, images, as_mask):
    tokens, pseudo = tokenise([[5, 265, 7], [265, 2], [9]])[:texts], torch.randn(images, W)
    composition = Composition(openai.model, tokens, pseudo, tokens == 265 if as_mask else 265)
    assert len(composition) == 3
    every = Composition(openai.model, tokens.expand(3, -1), pseudo.expand(3, -1), 265)
    with torch.no_grad():
        assert_equal(compose(openai.tower, composition), compose(openai.tower, every))


def test_several_images_need_as_many_texts(openai, tokenise):
    composition = Composition(openai.model, tokenise([[5, 265], [265]]), torch.randn(3, W), 265)
    with pytest.raises(RTDError, match="2 texts for pseudo tokens of 3 images"):
        compose(openai.tower, composition)

"""SEARLE's prompts, and its composition in every form that its function takes."""

import pytest
import torch
from rtd_adapters.searle import SEARLE

from rtd_plugin.clip.tokens import encode_text
from rtd_plugin.contract import plugins
from rtd_plugin.contract.composition import compose
from rtd_plugin.errors import RTDError

W = 32
ADAPTER = SEARLE()
[POINT] = ADAPTER.composition_points
ONE = [[5, 259, 7], [9, 8, 259, 3], [259]]  # at 2, 3 and 1: the start token is at 0
SEVERAL = [[5, 259, 7, 259], [9, 8, 259, 3]]
TWO = [[5, 259, 259, 7], [259, 259, 8, 9, 3], [6, 2, 4, 259, 259]]
# texts, shape of the pseudo tokens, num_tokens, and which pseudo token goes where: {(row, position): index}
FORMS = {
    "one each": (ONE, (3, W), 1, {(0, 2): 0, (1, 3): 1, (2, 1): 2}),
    "one each, of three dimensions": (ONE, (3, 1, W), 1, {(0, 2): (0, 0), (1, 3): (1, 0), (2, 1): (2, 0)}),
    "only the first $": (SEVERAL, (2, W), 1, {(0, 2): 0, (1, 3): 1}),
    "one for all": (ONE, (1, W), 1, {(0, 2): 0, (1, 3): 0, (2, 1): 0}),
    "one for all, of three dimensions": (ONE, (1, 1, W), 1, {(0, 2): (0, 0), (1, 3): (0, 0), (2, 1): (0, 0)}),
    "a vector for all": (ONE, (W,), 1, {(0, 2): ..., (1, 3): ..., (2, 1): ...}),
    "a vector for as many texts as it is wide": (
        [[5, 259, token] for token in range(W)],
        (W,),
        1,
        {(row, 2): ... for row in range(W)},
    ),
    "two each": (
        TWO,
        (3, 2, W),
        2,
        {(0, 2): (0, 0), (0, 3): (0, 1), (1, 1): (1, 0), (1, 2): (1, 1), (2, 4): (2, 0), (2, 5): (2, 1)},
    ),
    "one each, twice": (TWO, (3, W), 2, {(0, 2): 0, (0, 3): 0, (1, 1): 1, (1, 2): 1, (2, 4): 2, (2, 5): 2}),
    "two for all": (TWO, (2, W), 2, {(0, 2): 0, (0, 3): 1, (1, 1): 0, (1, 2): 1, (2, 4): 0, (2, 5): 1}),
    "two for all, of three dimensions": (
        TWO,
        (1, 2, W),
        2,
        {(0, 2): (0, 0), (0, 3): (0, 1), (1, 1): (0, 0), (1, 2): (0, 1), (2, 4): (0, 0), (2, 5): (0, 1)},
    ),
    "one for all, twice": (TWO, (1, W), 2, {(0, 2): 0, (0, 3): 0, (1, 1): 0, (1, 2): 0, (2, 4): 0, (2, 5): 0}),
    # The second replaces the token after the $, in the third text its end.
    "two each at one $": (
        ONE,
        (3, 2, W),
        2,
        {(0, 2): (0, 0), (0, 3): (0, 1), (1, 3): (1, 0), (1, 4): (1, 1), (2, 1): (2, 0), (2, 2): (2, 1)},
    ),
    # SEARLE's own fault: the second text's pseudo token goes where the first text has its second $.
    "one for all and several $": (SEVERAL, (1, W), 1, {(0, 2): 0, (1, 4): 0}),
}


def test_the_adapter_is_installed():
    assert type(plugins.find_adapter("searle")) is SEARLE


@pytest.mark.parametrize("form", FORMS)
def test_compositions_equal_the_hosts(openai, tokenise, assert_equal, form):
    texts, shape, num_tokens, positions = FORMS[form]
    tokens, pseudo = tokenise(texts), torch.randn(shape)
    expected, _ = openai.encode_with(tokens, {position: pseudo[index] for position, index in positions.items()})
    untouched, _ = openai.encode_with(tokens, {})
    with torch.no_grad():
        encoded = compose(openai.tower, POINT.read(openai.model, tokens, pseudo, num_tokens=num_tokens))
        assert_equal(encoded, expected)
        assert (expected - untouched).norm(dim=1).min() > 0.1
        if pseudo.ndim > 1 and len(pseudo) == len(tokens):
            rows = zip(tokens.split(1), pseudo.split(1), strict=True)
            alone = [compose(openai.tower, POINT.read(openai.model, *row, num_tokens)) for row in rows]
            assert_equal(torch.cat(alone), expected)


def test_composing_does_not_change_the_arguments(openai, tokenise):
    tokens, pseudo = tokenise(ONE), torch.randn(3, W)
    before = tokens.clone(), pseudo.clone()
    composition = POINT.read(openai.model, tokens, pseudo)
    compose(openai.tower, composition)
    torch.testing.assert_close((tokens, pseudo), before, rtol=0, atol=0)
    assert composition.model is openai.model
    assert not composition.hidden_states


@pytest.mark.parametrize(
    ("texts", "shape", "num_tokens", "message"),
    [
        ([[5, 259], [7]], (2, W), 1, r"has no \$"),
        ([[5, 259], [7]], (1, W), 1, r"has no \$"),
        (ONE, (2, W), 1, "there are 2 pseudo tokens per text, but num_tokens is 1"),
        (ONE, (3, 2, W), 3, "there are 2 pseudo tokens per text, but num_tokens is 3"),
        (ONE, (3, W + 1), 1, r"shape \(3, 33\)"),
        (ONE, (2, W), 2, "mask is .* of shape"),  # three $ are not enough for two in each of three texts
    ],
)
def test_wrong_arguments_are_refused(openai, tokenise, texts, shape, num_tokens, message):
    with pytest.raises(RTDError, match=message):
        compose(openai.tower, POINT.read(openai.model, tokenise(texts), torch.randn(shape), num_tokens))


def test_the_composition_points_are_those_of_the_repository():
    assert (POINT.file, POINT.name) == ("src/encode_with_pseudo_tokens.py", "encode_with_pseudo_tokens")
    assert POINT.modules == ("encode_with_pseudo_tokens", "src.encode_with_pseudo_tokens")
    assert str(POINT.signature) == "(clip_model, text, pseudo_tokens, num_tokens=1)"


def test_prompts_are_those_of_the_repository():
    assert ADAPTER.prompt.encode(condition="is red") == encode_text("a photo of $ that is red")
    assert ADAPTER.unconditioned_prompt.encode() == encode_text("a photo of $")
    assert ADAPTER.encode_two("is red", "has no sleeves") == encode_text("a photo of $ that is red and has no sleeves")
    assert ADAPTER.both_orders


@pytest.mark.parametrize("wrapped", ["{}.", "{}?", " , {}, ", "..{} ?."])
def test_conditions_of_two_are_trimmed(wrapped):
    encoded = ADAPTER.encode_two(wrapped.format("is red"), wrapped.format("isn't a no. 1"))
    assert encoded == encode_text("a photo of $ that is red and isn't a no. 1")
    assert ADAPTER.encode_two("is red!", "a") == encode_text("a photo of $ that is red! and a")

"""Pic2Word's prompts, its own projection module, and its composition in every form that its methods take."""

import pytest
import torch
from rtd_adapters.im2text import Im2Text
from rtd_adapters.pic2word import Pic2Word

from rtd_plugin.clip.tokens import encode_text
from rtd_plugin.contract import plugins
from rtd_plugin.contract.adapter import load_projection
from rtd_plugin.contract.composition import compose
from rtd_plugin.errors import RTDError

W = 32
ADAPTER = Pic2Word()
RETRIEVAL, VISUALISATION = ADAPTER.composition_points
STAR = torch.tensor(265, dtype=torch.int32)  # as Pic2Word's scripts have it from their tokenizer
ONE = [[5, 6, 265, 7], [9, 8, 265, 3, 2], [4, 1, 265]]  # all at 3: the start token is at 0
TWO = [[5, 265, 7, 265], [9, 265, 2, 265, 3], [4, 265, 1, 265, 8, 6]]
# texts, shapes of the pseudo tokens (a list for a tuple of them), arguments, and which of them (first index) goes where
FORMS = {
    "one each": (ONE, (3, W), {"repeat": False}, {(0, 3): 0, (1, 3): 1, (2, 3): 2}),
    "one each, of three dimensions": (ONE, (3, 1, W), {"repeat": False}, {(0, 3): 0, (1, 3): 1, (2, 3): 2}),
    "one text for all": (ONE[:1], (3, W), {}, {(0, 3): 0, (1, 3): 1, (2, 3): 2}),
    "one text, one image": (ONE[:1], (1, W), {}, {(0, 3): 0}),
    "only the first *": (TWO, (3, W), {"repeat": False}, {(0, 2): 0, (1, 2): 1, (2, 2): 2}),
    "the first text's place": (
        [[5, 265, 7, 3], [9, 8, 265], [6, 6, 4, 1]],
        (3, W),
        {"repeat": False},
        {(0, 2): 0, (1, 2): 1, (2, 2): 2},
    ),
    "another placeholder": ([[5, 4, 265]], (3, W), {"split_ind": 4}, {(0, 2): 0, (1, 2): 1, (2, 2): 2}),
    "a tuple of one": (ONE, [(3, W)], {"repeat": False}, {(0, 3): (0, 0), (1, 3): (0, 1), (2, 3): (0, 2)}),
    "a tuple": (
        TWO,
        [(3, W), (3, 1, W)],
        {"repeat": False},
        {(row, 2 * index + 2): (index, row) for row in range(3) for index in range(2)},
    ),
    "a tuple, one text for all": (
        TWO[:1],
        [(3, W), (3, W)],
        {},
        {(row, 2 * index + 2): (index, row) for row in range(3) for index in range(2)},
    ),
    "a tuple of more than there are placeholders": (ONE[:1], [(2, W), (2, W)], {}, {(0, 3): (0, 0), (1, 3): (0, 1)}),
}
DEMO_FORMS = {
    "one image": ([[5, 265], [265, 9, 4], [1, 2, 265, 265]], (1, W), {}, {(0, 2): 0, (1, 1): 0, (2, 3): 0}),
    "one text": ([[5, 265, 3]], (1, W), {}, {(0, 2): 0}),
    "another placeholder": ([[5, 4, 265], [4, 2]], (1, W), {"split_ind": 4}, {(0, 2): 0, (1, 1): 0}),
    "a tuple": (
        [[5, 265, 265], [265, 9, 265, 3]],
        [(1, W), (1, W)],
        {},
        {(0, 2): (0, 0), (0, 3): (1, 0), (1, 1): (0, 0), (1, 3): (1, 0)},
    ),
    "a tuple of more than there are placeholders": (
        [[5, 265], [265, 9]],
        [(1, W), (1, W)],
        {},
        {(0, 2): (0, 0), (1, 1): (0, 0)},
    ),
}


def test_the_adapter_is_installed():
    assert type(plugins.find_adapter("pic2word")) is Pic2Word


def assign_vectors(images, positions):
    if isinstance(images, tuple):
        return {position: images[index][row].reshape(W) for position, (index, row) in positions.items()}
    return {position: images[row].reshape(W) for position, row in positions.items()}


@pytest.mark.parametrize(
    ("point", "form"),
    [*((RETRIEVAL, form) for form in FORMS.values()), *((VISUALISATION, form) for form in DEMO_FORMS.values())],
    ids=[*FORMS, *(f"demo: {name}" for name in DEMO_FORMS)],
)
def test_compositions_equal_the_hosts(openai, tokenise, assert_equal, point, form):
    texts, shapes, arguments, positions = form
    arguments = {"split_ind": STAR, **arguments}
    tokens = tokenise(texts)
    images = tuple(map(torch.randn, shapes)) if isinstance(shapes, list) else torch.randn(shapes)
    rows = 1 + max(row for row, _ in positions)
    every_text = tokens.expand(rows, -1)
    expected, _ = openai.encode_with(every_text, assign_vectors(images, positions))
    untouched, _ = openai.encode_with(every_text, {})
    assert (expected - untouched).norm(dim=1).min() > 0.1
    with torch.no_grad():
        assert_equal(compose(openai.tower, point.read(openai.model, tokens, images, **arguments)), expected)


@pytest.mark.parametrize("n", [2, 3])
def test_relatives_put_several_pseudo_tokens_at_one_placeholder(openai, tokenise, assert_equal, n):
    """What follows moves right, the end token too."""
    images = torch.randn(3, n, W)
    longer = tokenise([[*text[:2], *[0] * n, *text[3:]] for text in ONE])
    expected, _ = openai.encode_with(longer, {(row, 3 + k): images[row, k] for row in range(3) for k in range(n)})
    with torch.no_grad():
        composition = RETRIEVAL.read(openai.model, tokenise(ONE), images, STAR, repeat=False)
        assert_equal(compose(openai.tower, composition), expected)


@pytest.mark.parametrize("texts", [ONE, ONE[:1]], ids=["own texts", "one text for all"])
def test_a_batch_equals_its_queries_encoded_alone(openai, tokenise, assert_equal, texts):
    tokens, images = tokenise(texts), torch.randn(3, W)
    repeat = len(texts) == 1
    with torch.no_grad():
        batch = compose(openai.tower, RETRIEVAL.read(openai.model, tokens, images, STAR, repeat))
        alone = [
            compose(openai.tower, RETRIEVAL.read(openai.model, text, image, STAR, repeat))
            for text, image in zip(tokens.expand(3, -1).split(1), images.split(1), strict=True)
        ]
    assert_equal(torch.cat(alone), batch)


@pytest.mark.parametrize(
    ("point", "texts", "shapes", "message"),
    [
        (RETRIEVAL, [[5, 6]], (2, W), r"texts have \[0\] placeholders for 1 pseudo tokens"),
        (RETRIEVAL, TWO[:1], [(2, W)], r"texts have \[2\] placeholders for 1 pseudo tokens"),
        (RETRIEVAL, ONE[:1], (2, W + 1), r"shape \(2, 33\)"),
        (VISUALISATION, [[5, 265], [7]], (1, W), r"texts have \[0, 1\] placeholders for 1 pseudo tokens"),
        (VISUALISATION, [[5, 265], [265, 265]], [(1, W)], r"texts have \[1, 2\] placeholders for 1 pseudo tokens"),
    ],
)
def test_wrong_arguments_are_refused(openai, tokenise, point, texts, shapes, message):
    images = tuple(map(torch.randn, shapes)) if isinstance(shapes, list) else torch.randn(shapes)
    with pytest.raises(RTDError, match=message):
        compose(openai.tower, point.read(openai.model, tokenise(texts), images, split_ind=STAR))


def test_the_composition_points_are_those_of_the_repository():
    for point in (RETRIEVAL, VISUALISATION):
        assert (point.file, point.modules) == ("model/model.py", ("model.model",))
    assert RETRIEVAL.name == "CLIP.encode_text_img_retrieval"
    assert str(RETRIEVAL.signature) == "(self, text, img_tokens, split_ind=4, repeat=True)"
    assert VISUALISATION.name == "CLIP.encode_text_img_vis"
    assert str(VISUALISATION.signature) == "(self, text, img_tokens, split_ind=4)"


def test_prompts_are_those_of_the_repository():
    assert ADAPTER.prompt.placeholder_id == ADAPTER.prompt_of_two.placeholder_id == 265
    assert ADAPTER.prompt.encode(condition="is $5") == encode_text("a photo of * , is $5")
    assert ADAPTER.unconditioned_prompt.encode() == encode_text("a photo of *")
    assert ADAPTER.encode_two("is red.", "is long?") == encode_text("a photo of * , is long? and is red.")
    assert not ADAPTER.both_orders


def test_a_star_in_a_condition_is_not_a_placeholder():
    assert ADAPTER.prompt.encode(condition="has a * on it").count(265) == 1
    assert ADAPTER.encode_two("a *", "* b").count(265) == 1


def test_im2text_computes_hidden_layers_and_a_linear_one(randomise):
    module = randomise(Im2Text(12, 8))
    state, x = module.state_dict(), torch.randn(5, 12)
    assert {key: tuple(weight.shape) for key, weight in state.items() if "weight" in key} == {
        "layers.0.0.weight": (512, 12),
        "layers.1.0.weight": (512, 512),
        "fc_out.weight": (8, 512),
    }
    expected = x
    for layer in range(2):
        expected = (expected @ state[f"layers.{layer}.0.weight"].T + state[f"layers.{layer}.0.bias"]).clamp(min=0)
    expected = expected @ state["fc_out.weight"].T + state["fc_out.bias"]
    torch.testing.assert_close(module(x), expected)
    assert not torch.equal(module.train()(x), module(x)), "dropout is for training"


@pytest.mark.parametrize(("hidden", "layers"), [(512, 1), (512, 3), (20, 2), (768, 4)])
def test_sizes_are_read_from_the_state_dict(randomise, tmp_path, hidden, layers):
    module = randomise(Im2Text(12, 8, hidden, layers))
    torch.save({"state_dict_img2text": module.state_dict()}, tmp_path / "epoch.pt")
    features = torch.randn(3, 12)
    torch.testing.assert_close(load_projection(ADAPTER, tmp_path / "epoch.pt", 12, 8)(features), module(features))

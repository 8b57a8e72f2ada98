"""The tower computes what the three libraries compute, and takes pseudo tokens as if their embeddings were replaced."""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from rtd_plugin.clip.layouts import read_state_dict
from rtd_plugin.clip.old_torch import VERSION
from rtd_plugin.clip.tower import TextTower
from rtd_plugin.errors import RTDError

SMALL = {"vocabulary": 300, "context": 20, "width": 32, "heads": 2, "layers": 2, "features": 24}
SIZES = [
    SMALL,
    {"vocabulary": 400, "context": 77, "width": 64, "heads": 1, "layers": 1, "features": 64},
    {"vocabulary": 1000, "context": 33, "width": 96, "heads": 6, "layers": 3, "features": 40},
]
LIBRARIES = [
    ("open_clip", "gelu"),
    ("open_clip", "quick_gelu"),
    ("openai", "quick_gelu"),
    ("huggingface", "gelu"),
    ("huggingface", "quick_gelu"),
]
PLAIN = [(3, []), (9, []), (16, []), (5, [])]
ONE_EACH = [(8, [3]), (16, [4]), (5, [1])]
STAR = torch.tensor(265)


def tower_of(library, activation, heads):
    return TextTower.from_state_dict(library.model.state_dict(), activation=activation, heads=heads)


def assert_equal_features(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert torch.pdist(expected.float()).min() > 0.1, "the texts' features do not differ, so nothing was compared"


@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: f"width{sizes['width']}")
@pytest.mark.parametrize(("name", "activation"), LIBRARIES)
def test_features_are_the_librarys(library, make_tokens, name, activation, sizes):
    reference = library(name, activation=activation, **sizes)
    tower = tower_of(reference, activation, sizes["heads"])
    tokens = make_tokens(sizes["vocabulary"], PLAIN)
    with torch.no_grad():
        assert_equal_features(tower.encode(tokens), reference.encode(reference.pad_tokens(tokens)))


@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: f"width{sizes['width']}")
@pytest.mark.parametrize(("name", "activation"), LIBRARIES)
def test_pseudo_tokens_are_replaced_embeddings(library, make_tokens, name, activation, sizes):
    reference = library(name, activation=activation, **sizes)
    tower = tower_of(reference, activation, sizes["heads"])
    tokens = make_tokens(sizes["vocabulary"], ONE_EACH)
    pseudo = torch.randn(3, sizes["width"])
    with torch.no_grad():
        composed = tower.encode(tokens, pseudo)
        assert_equal_features(composed, reference.encode_with(tokens, pseudo))
        assert (composed - tower.encode(tokens)).abs().max() > 0.05


@pytest.mark.parametrize("name", ["open_clip", "huggingface"])
def test_hidden_layers_may_have_any_width(library, make_tokens, name):
    reference = library(name, activation="gelu", mlp_ratio=2.5, **SMALL)
    tokens = make_tokens(300, PLAIN)
    with torch.no_grad():
        assert_equal_features(
            tower_of(reference, "gelu", 2).encode(tokens), reference.encode(reference.pad_tokens(tokens))
        )


@pytest.fixture
def reference(library):
    return library("open_clip", activation="quick_gelu", **SMALL)


@pytest.fixture
def tower(reference):
    return tower_of(reference, "quick_gelu", 2)


def test_the_activation_and_the_heads_matter(library, make_tokens, reference):
    tokens = make_tokens(300, PLAIN)
    with torch.no_grad():
        features = [tower_of(reference, *settings).encode(tokens) for settings in (("quick_gelu", 2), ("gelu", 2))]
        features.append(tower_of(reference, "quick_gelu", 4).encode(tokens))
    assert (features[0] - features[1]).abs().max() > 1e-3
    assert (features[0] - features[2]).abs().max() > 1e-3


@pytest.mark.parametrize("shape", [(3, 32), (3, 1, 32)])
def test_one_pseudo_token_takes_every_placeholder(reference, tower, make_tokens, shape):
    tokens = make_tokens(300, [(12, [2, 5, 6]), (9, [1]), (16, [3, 14])])
    pseudo = torch.randn(3, 32)
    repeated = pseudo.repeat_interleave(torch.tensor([3, 1, 2]), dim=0)
    with torch.no_grad():
        assert_equal_features(tower.encode(tokens, pseudo.reshape(shape)), reference.encode_with(tokens, repeated))


def test_several_pseudo_tokens_take_the_placeholders_in_order(reference, tower, make_tokens):
    tokens = make_tokens(300, [(12, [2, 5, 6]), (9, [1, 2, 7]), (16, [3, 10, 14])])
    pseudo = torch.randn(3, 3, 32)
    with torch.no_grad():
        composed = tower.encode(tokens, pseudo)
        assert_equal_features(composed, reference.encode_with(tokens, pseudo.flatten(0, 1)))
        assert (composed - tower.encode(tokens, pseudo.flip(1))).abs().max() > 0.1


@pytest.mark.parametrize("n", [2, 3])
def test_several_pseudo_tokens_make_room_at_one_placeholder(reference, tower, make_tokens, n):
    texts = [(8, [3]), (16, [14]), (5, [1])]
    tokens = make_tokens(300, texts)
    pseudo = torch.randn(3, n, 32)
    longer = torch.zeros(3, 16 + n - 1, dtype=torch.int64)
    for row, source, (length, [place]) in zip(longer, tokens, texts, strict=True):
        spread = [*source[:place].tolist(), *[259] * n, *source[place + 1 : length].tolist()]
        row[: len(spread)] = torch.tensor(spread)
    with torch.no_grad():
        assert_equal_features(tower.encode(tokens, pseudo), reference.encode_with(longer, pseudo.flatten(0, 1)))


def test_another_placeholder(reference, tower, make_tokens):
    tokens = make_tokens(300, ONE_EACH)
    stars = tokens.where(tokens != 259, torch.tensor(265))
    pseudo = torch.randn(3, 32)
    with torch.no_grad():
        torch.testing.assert_close(tower.encode(stars, pseudo, placeholder=265), tower.encode(tokens, pseudo))


def test_a_mask_selects_any_positions(reference, tower, make_tokens):
    """A row may have none, or its end token."""
    texts = [(8, [3]), (16, [4, 9]), (5, []), (7, [])]
    tokens, pseudo = make_tokens(300, texts), torch.randn(4, 32)
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    mask[0, [2, 5]] = mask[1, 9] = mask[3, 6] = True

    def replace(_module, _inputs, output):
        output = output.clone()
        output[0, 2] = output[0, 5] = pseudo[0]
        output[1, 9] = pseudo[1]
        output[3, 6] = pseudo[3]
        return output

    with torch.no_grad():
        found = tower.encode(tokens, pseudo, mask)
        assert_equal_features(tower.encode_with_hidden_states(tokens, pseudo, mask)[0], found)
        handle = reference.embedding.register_forward_hook(replace)
        expected = reference.encode(reference.pad_tokens(tokens))
        handle.remove()
        assert_equal_features(found, expected)
        assert ((found - tower.encode(tokens)).norm(dim=1) > 0.1).tolist() == [True, True, False, True]
        by_id = tower.encode(tokens[:2], pseudo[:2])
        torch.testing.assert_close(tower.encode(tokens[:2], pseudo[:2], tokens[:2] == 259), by_id)


@pytest.mark.parametrize("n", [2, 3])
def test_a_mask_for_several_pseudo_tokens(tower, make_tokens, n):
    texts = [(8, [3]), (16, [14]), (5, [1])]
    tokens, pseudo = make_tokens(300, texts), torch.randn(3, n, 32)
    spread = make_tokens(300, [(length + 4, places * n) for length, places in texts])
    for row, (_, [place]) in zip(spread, texts, strict=True):
        row[place : place + n] = 259
    with torch.no_grad():
        torch.testing.assert_close(tower.encode(tokens, pseudo, tokens == 259), tower.encode(tokens, pseudo))
        torch.testing.assert_close(tower.encode(spread, pseudo, spread == 259), tower.encode(spread, pseudo))


@pytest.mark.parametrize(
    "mask", [torch.zeros(3, 15, dtype=torch.bool), torch.zeros(1, 16, dtype=torch.bool), torch.zeros(3, 16), STAR]
)
def test_wrong_masks_are_refused(tower, make_tokens, mask):
    with pytest.raises(RTDError, match=r"mask is torch.* of shape .*, but tokens of shape \(3, 16\) need bool"):
        tower.encode(make_tokens(300, ONE_EACH), torch.zeros(3, 32), mask)


@pytest.mark.parametrize(("name", "activation"), [("huggingface", "gelu"), ("huggingface", "quick_gelu")])
@pytest.mark.parametrize("with_pseudo_tokens", [False, True])
def test_hidden_states_are_the_librarys(library, make_tokens, name, activation, with_pseudo_tokens):
    reference = library(name, activation=activation, **SMALL)
    tower = tower_of(reference, activation, 2)
    tokens = reference.pad_tokens(make_tokens(300, ONE_EACH))
    pseudo = torch.randn(3, 32)
    vectors = pseudo if with_pseudo_tokens else reference.embedding.weight[259].expand(3, -1)
    states = []
    handle = reference.model.text_model.final_layer_norm.register_forward_hook(lambda *args: states.append(args[2]))
    with torch.no_grad():
        expected = reference.encode_with(tokens, vectors)
        handle.remove()
        found = tower.encode_with_hidden_states(tokens, pseudo if with_pseudo_tokens else None)
    assert_equal_features(found[0], expected)
    torch.testing.assert_close(found[1], states[0], rtol=1e-5, atol=1e-5)
    assert found[1].shape == (3, 20, 32)


def test_a_batch_equals_its_texts_encoded_alone(tower, make_tokens):
    tokens, pseudo = make_tokens(300, ONE_EACH), torch.randn(3, 2, 32)
    with torch.no_grad():
        together = tower.encode(tokens, pseudo)
        alone = torch.cat([tower.encode(tokens[i : i + 1], pseudo[i : i + 1]) for i in range(3)])
    assert_equal_features(together, alone)


@pytest.mark.parametrize("pseudo_shape", [None, (3, 32), (3, 1, 32), (3, 2, 32)])
def test_what_follows_the_end_token_does_not_matter(tower, make_tokens, pseudo_shape):
    tokens = make_tokens(300, ONE_EACH)
    padded = torch.cat([tokens, tokens.new_zeros(3, 20 - tokens.shape[1])], dim=1)
    for row in padded:
        end = int(row.argmax())
        row[end + 1 :] = torch.randint(1, 299, row[end + 1 :].shape)
        row[end + 1 :: 2] = 259
    padded[2, 9] = 299  # a second end token, as padding by Hugging Face's tokenizer has it
    pseudo = None if pseudo_shape is None else torch.randn(pseudo_shape)
    with torch.no_grad():
        assert_equal_features(tower.encode(padded, pseudo), tower.encode(tokens, pseudo))


def test_texts_are_cut_after_the_last_end_token(tower, make_tokens):
    lengths = []
    tower.transformer.register_forward_hook(lambda _module, inputs, _output: lengths.append(inputs[0].shape[1]))
    tower.encode(torch.nn.functional.pad(make_tokens(300, [(4, []), (7, [])]), (0, 50)))
    assert lengths == [7]


@torch.no_grad()
@pytest.mark.skipif(VERSION < (2, 7), reason="torch 2.6 initialises weights on a GPU only where there is one")
def test_nothing_waits_for_a_gpu():
    """On tensors without data, where looking at one is an error."""
    with FakeTensorMode(), torch.device("cuda"):
        tower = TextTower(width=64, layers=2, features=32)
        tokens = torch.ones(4, 77, dtype=torch.int64)
        placeholders = torch.zeros(4, 77, dtype=torch.bool)
        features = tower.encode(tokens, torch.zeros(4, 64), placeholders)
        assert (features.shape, features.device.type) == ((4, 32), "cuda")
        with pytest.raises(DataDependentOutputException):
            int(tokens.max())


@pytest.mark.parametrize(("name", "activation"), LIBRARIES)
def test_gradients_are_the_librarys(library, make_tokens, name, activation):
    reference = library(name, activation=activation, **SMALL)
    tower = tower_of(reference, activation, 2)
    tokens = make_tokens(300, ONE_EACH)
    ours, theirs = (vectors.requires_grad_() for vectors in torch.randn(1, 3, 32).repeat(2, 1, 1).unbind())
    upstream = torch.randn(3, 24)
    (tower.encode(tokens, ours.clone()) * upstream).sum().backward()
    (reference.encode_with(tokens, theirs) * upstream).sum().backward()
    expected = read_state_dict(
        {key: weight.grad for key, weight in reference.model.named_parameters() if weight.grad is not None}
    )
    for key, weight in tower.named_parameters():
        torch.testing.assert_close(weight.grad, expected[key], rtol=1e-4, atol=1e-5)
        assert weight.grad.abs().max() > 1e-3, key
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    assert ours.grad.abs().max() > 1e-3


def test_gradients_of_pseudo_tokens_that_made_room(reference, tower, make_tokens):
    tokens = make_tokens(300, [(5, [1])])
    longer = torch.cat([tokens[:, :2], tokens[:, 1:]], dim=1)
    ours, theirs = torch.randn(1, 1, 2, 32).repeat(2, 1, 1, 1).requires_grad_().unbind()
    found = torch.autograd.grad(tower.encode(tokens, ours).square().sum(), ours)[0]
    expected = torch.autograd.grad(reference.encode_with(longer, theirs.flatten(0, 1)).square().sum(), theirs)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert found.abs().amin(dim=(0, 2)).max() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(tower, make_tokens, dtype):
    tokens, pseudo = make_tokens(300, ONE_EACH), torch.randn(3, 32)
    with torch.no_grad():
        exact = tower.encode(tokens, pseudo)
        rounded = tower.to(dtype).encode(tokens, pseudo)  # pseudo tokens may stay in fp32
    assert tower.dtype == rounded.dtype == dtype
    torch.testing.assert_close(rounded.float(), exact, rtol=0, atol=0.02 if dtype == torch.float16 else 0.2)


def test_autocast(tower, make_tokens):
    tokens, pseudo = make_tokens(300, ONE_EACH), torch.randn(3, 2, 32, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = tower.encode(tokens, pseudo)
    rounded.float().sum().backward()
    assert rounded.dtype == torch.bfloat16
    assert pseudo.grad.dtype == tower.text_projection.grad.dtype == torch.float32
    torch.testing.assert_close(rounded.float(), tower.encode(tokens, pseudo), rtol=0, atol=0.2)


@pytest.mark.parametrize("pseudo_shape", [None, (0, 32), (0, 3, 32)])
def test_empty_batch(tower, pseudo_shape):
    pseudo = None if pseudo_shape is None else torch.zeros(pseudo_shape)
    assert tower.encode(torch.zeros(0, 9, dtype=torch.int64), pseudo).shape == (0, 24)


def test_forward_is_encode(tower, make_tokens):
    tokens, pseudo = make_tokens(300, ONE_EACH), torch.randn(3, 32)
    torch.testing.assert_close(tower(tokens, pseudo), tower.encode(tokens, pseudo))


def test_sizes(tower):
    assert (tower.width, tower.context_length, tower.features, tower.heads) == (32, 20, 24, 2)


@pytest.mark.parametrize(
    ("texts", "shape", "message"),
    [
        ([(5, [1]), (5, [])], (2, 32), "text 1 of the batch has no placeholder"),
        ([(5, [1]), (5, [])], (2, 3, 32), "text 1 of the batch has no placeholder"),
        ([(5, [1])], (1, 31), r"shape \(1, 31\), but 1 texts at width 32 need \(1, 32\)"),
        ([(5, [1])], (2, 32), r"shape \(2, 32\), but 1 texts"),
        ([(5, [1])], (32,), r"shape \(32,\)"),
        ([(5, [1])], (1, 0, 32), r"shape \(1, 0, 32\)"),
        ([(5, [1])], (1, 1, 1, 32), r"shape \(1, 1, 1, 32\)"),
        ([(8, [1, 2])], (1, 3, 32), r"need 1 or 3 placeholders in each text, found \[2\]"),
        ([(8, [1]), (8, [1, 2])], (2, 2, 32), r"need 1 or 2 placeholders in each text, found \[1, 2\]"),
        ([(19, [1])], (1, 3, 32), "needs 21 positions, but the text tower has 20"),
        ([(21, [])], None, "needs 21 positions, but the text tower has 20"),
    ],
)
def test_texts_that_cannot_be_encoded_are_refused(tower, make_tokens, texts, shape, message):
    pseudo = None if shape is None else torch.zeros(shape)
    with pytest.raises(RTDError, match=message):
        tower.encode(make_tokens(300, texts), pseudo)


@pytest.mark.parametrize("shape", [(5,), (2, 0), (1, 2, 3)])
def test_tokens_that_are_not_a_batch_are_refused(tower, shape):
    with pytest.raises(RTDError, match="tokens have shape"):
        tower.encode(torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activation": "relu"}, "activation 'relu' is not one of gelu, quick_gelu"),
        ({"heads": 5}, "5 heads do not divide"),
        ({"heads": None}, "no default number of heads"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(RTDError, match=message):
        TextTower(**{"vocabulary": 9, "width": 32, "layers": 1, "heads": 2, **settings})


def test_one_head_per_64_channels_by_default():
    assert TextTower(vocabulary=9, width=192, layers=1).heads == 3


def test_the_tower_keeps_the_dtype_and_owns_its_weights(reference):
    state = {key: weight.half() for key, weight in reference.model.state_dict().items()}
    tower = TextTower.from_state_dict(state, heads=2)
    assert tower.dtype == torch.float16
    state["text_projection"].zero_()
    assert tower.text_projection.abs().max() > 0
    mixed = {key: weight if "ln_" in key else weight.half() for key, weight in reference.model.state_dict().items()}
    assert {weight.dtype for weight in TextTower.from_state_dict(mixed, heads=2).parameters()} == {torch.float32}
    assert all(weight.requires_grad for weight in tower.parameters())


@pytest.mark.parametrize(("count", "placeholders"), [(1, 1), (3, 1), (3, 3)])
def test_torch_can_export_composed_queries(tower, make_tokens, count, placeholders):
    """For any batch and length: no branch depends on data."""

    class Query(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.tower = tower

        def forward(self, tokens, pseudo_tokens):
            return self.tower.encode(tokens, pseudo_tokens, placeholder=5)

    def make_inputs(lengths):
        end = len(tower.token_embedding.weight) - 1
        rows = [[end - 1, *[5] * placeholders, *range(6, 6 + length), end] for length in lengths]
        tokens = torch.tensor([row + [0] * (max(map(len, rows)) - len(row)) for row in rows])
        return tokens, torch.randn(len(rows), count, tower.width)

    batch, length = (
        torch.export.Dim("batch", max=99),
        torch.export.Dim("length", min=6, max=tower.context_length - count + 1),
    )
    shapes = {"tokens": {0: batch, 1: length}, "pseudo_tokens": {0: batch}}
    exported = torch.export.export(Query(), make_inputs([1, 4]), dynamic_shapes=shapes, strict=False).module()
    for lengths in ([7], [9, 2, 12, 5, 1]):
        inputs = make_inputs(lengths)
        torch.testing.assert_close(exported(*inputs), tower.encode(*inputs, placeholder=5), atol=1e-5, rtol=1e-5)

"""The packed tower equals the plain one, gradients included, and computes each node of a tree once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rtd_plugin.clip.tower import TextTower
from rtd_plugin.clip.transformer import CausalAttention
from rtd_plugin.engine import prefix_tree
from rtd_plugin.engine.packed_tower import PackedTower
from rtd_plugin.engine.prefix_tree import pack_texts
from rtd_plugin.errors import RTDError
from rtd_plugin.testing.fixtures import randomise

START, END, PLACEHOLDER = 298, 299, 259
CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["gelu", "quick_gelu"])
def tower(request):
    tower = TextTower(
        vocabulary=300, context_length=24, width=32, heads=2, layers=3, features=24, activation=request.param
    )
    return randomise(tower)


def make_tokens(*texts):
    """Return texts, token ids without start and end, as (B, L); what follows an end token is noise."""
    rows = [[START, *text, END] for text in texts]
    tokens = torch.randint(1, 298, (len(rows), max(map(len, rows)) + 2))
    for row, text in zip(tokens, rows, strict=True):
        row[: len(text)] = torch.tensor(text)
    return tokens


def encode_packed(tower, tokens, pseudo_tokens=None, placeholder=PLACEHOLDER, subjects=None, **options):
    packed = PackedTower(tower, CPU, **options)
    count = None if pseudo_tokens is None else 1 if pseudo_tokens.ndim == 2 else pseudo_tokens.shape[1]
    return packed(packed.prepare(tokens, placeholder, subjects, count), pseudo_tokens)


def assert_equal_to_the_plain_tower(tower, tokens, pseudo_tokens=None, placeholder=PLACEHOLDER, subjects=None):
    results = []
    for encode in (lambda *inputs: encode_packed(tower, *inputs), tower.encode):
        tower.zero_grad()
        vectors = None if pseudo_tokens is None else pseudo_tokens.clone().requires_grad_()
        features = encode(tokens, vectors, placeholder, subjects)
        weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
        (features * weights).sum().backward()
        gradients = {name: weight.grad.clone() for name, weight in tower.named_parameters()}
        if vectors is not None:
            gradients["pseudo tokens"] = vectors.grad
        results.append((features.detach(), gradients))
    (packed, gradients), (plain, expected) = results
    torch.testing.assert_close(packed, plain, rtol=1e-5, atol=1e-5)
    for name, gradient in expected.items():
        assert gradient.abs().max() > 1e-3, f"{name}: a gradient this small proves nothing"
        torch.testing.assert_close(
            gradients[name], gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max().item(), msg=name
        )


OF = [10, 11, 12]  # as "a photo of"
PROMPTS = [[*OF, PLACEHOLDER, 20, *range(30, 30 + n)] for n in (3, 1, 9, 1, 15)]
BARE = [[*OF, PLACEHOLDER]] * 5


@pytest.mark.parametrize("shape", [(5, 32), (5, 1, 32), (5, 3, 32)])
def test_prompts_with_and_without_conditions(tower, shape):
    subjects = torch.arange(5).repeat(2)
    assert_equal_to_the_plain_tower(tower, make_tokens(*PROMPTS, *BARE), torch.randn(shape), subjects=subjects)
    assert_equal_to_the_plain_tower(tower, make_tokens(*PROMPTS), torch.randn(shape))


def test_several_placeholders(tower):
    texts = [[PLACEHOLDER, 7, PLACEHOLDER], [PLACEHOLDER, 7, 8, PLACEHOLDER, 9], [1, 2, PLACEHOLDER, PLACEHOLDER]]
    for shape in ((3, 32), (3, 2, 32)):
        assert_equal_to_the_plain_tower(tower, make_tokens(*texts), torch.randn(shape))


def test_a_mask_of_placeholders(tower):
    tokens = make_tokens([1, 2, 3], [1, 2, 3, 4], [5, 6])
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    mask[0, 2] = mask[1, 2] = mask[2, 3] = True  # the last is an end token
    assert_equal_to_the_plain_tower(tower, tokens, torch.randn(3, 32), mask)


def test_an_unconditioned_prompt_that_the_other_does_not_begin_with(tower):
    texts = [*PROMPTS[:2], [*OF[:2], PLACEHOLDER, 13], [PLACEHOLDER]]
    subjects = torch.tensor([0, 1, 0, 1])
    assert_equal_to_the_plain_tower(tower, make_tokens(*texts), torch.randn(2, 32), subjects=subjects)


def test_long_texts_and_equal_ones(tower):
    texts = [list(range(1, 23)), [1, 2], [1, 2], [4], [1, 2], [], list(range(1, 20))]
    assert_equal_to_the_plain_tower(tower, make_tokens(*texts))


def expected_prefixes(rows):
    return {tuple(row[: length + 1]) for row in rows for length in range(len(row))}


TEXTS = st.lists(st.lists(st.integers(1, 3), max_size=8), min_size=1, max_size=14)


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.sampled_from([16, 24, 64]), st.booleans())
def test_a_group_is_the_prefix_tree_of_its_texts(texts, size, few_shapes):
    """Each group has a node once; a node attends to its ancestors and itself; a text ends at the end of its path."""
    rows = [[START, *text, END] for text in texts]
    lengths = np.array([len(row) for row in rows])
    tokens = np.zeros((len(rows), lengths.max()), np.int64)
    for row, text in zip(tokens, rows, strict=True):
        row[: len(text)] = text
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefix_tree, "GROUP_NODES", size)
        patch.setattr(prefix_tree, "GROUP_SIZES", range(size, size + 1))
        packed = pack_texts(tokens, lengths, few_shapes)
    assert packed.tokens.shape[1] == size
    seen = (packed.build_mask(torch.float32).squeeze(1) == 0).numpy()  # (S, T, T)
    assert seen.diagonal(axis1=1, axis2=2).all()
    members = {}
    for text, end in zip(rows, packed.ends.tolist(), strict=True):
        group, node = divmod(end, size)
        path = np.flatnonzero(seen[group, node])
        assert packed.tokens[group, path].tolist() == text
        assert packed.positions[group, path].tolist() == list(range(len(text)))
        members.setdefault(group, []).append(text)
    used = sum(len(expected_prefixes(texts)) for texts in members.values())
    assert used == int(((packed.positions > 0) | (packed.tokens == START)).sum())
    if len(expected_prefixes(rows)) <= size:
        assert list(members) == [0]


def test_a_prompt_costs_its_condition_and_one_end_token_more():
    """Start and `a photo of` once; for each text its pseudo token, `that`, the condition, and two end tokens."""
    tokens = make_tokens(*PROMPTS, *BARE)
    lengths = tokens.argmax(dim=1).numpy() + 1
    subjects = torch.arange(5).repeat(2).unsqueeze(1)
    packed = pack_texts(tokens.where(tokens != PLACEHOLDER, -1 - subjects).numpy(), lengths)
    used = (packed.positions > 0) | (packed.tokens == START)
    assert used.sum() == 4 + sum(len(prompt) - len(OF) + 2 for prompt in PROMPTS)
    assert sorted(packed.pseudo_rows[packed.pseudo_rows >= 0].tolist()) == [0, 1, 2, 3, 4]


def test_batches_of_one_size_have_few_shapes():
    generator = np.random.default_rng(0)
    shapes = set()
    for _ in range(200):
        lengths = generator.integers(6, 40, 256)
        tokens = generator.integers(1, 1000, (256, 40))
        shapes.add(pack_texts(tokens, lengths, few_shapes=True).tokens.shape)
    assert len(shapes) <= 4


def test_little_is_unused_where_shapes_may_differ():
    generator = np.random.default_rng(0)
    for texts in (20, 64, 256):
        lengths = generator.integers(8, 30, texts)
        packed = pack_texts(generator.integers(1, 1000, (texts, 30)), lengths)
        assert lengths.sum() <= packed.tokens.numel() < 1.15 * lengths.sum()


def test_groups_are_rounded_up_by_an_eighth_at_most():
    for count in range(1, 200):
        assert count <= prefix_tree._round_up(count) <= count * 9 / 8


def test_activation_checkpointing_changes_no_gradient(tower):
    tokens, pseudo_tokens, gradients, passes = make_tokens(*PROMPTS), torch.randn(5, 32), [], []
    handle = tower.transformer.resblocks[0].attn.out_proj.register_forward_pre_hook(lambda *_: passes.append(1))
    for checkpointing in (False, True):
        tower.zero_grad()
        encode_packed(tower, tokens, pseudo_tokens, checkpointing=checkpointing).square().sum().backward()
        gradients.append({name: weight.grad.clone() for name, weight in tower.named_parameters()})
        passes.append(0)
    handle.remove()
    assert passes == [1, 0, 1, 1, 0]  # with it, each block is computed twice
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_attention_leaves_out_cudnn(tower, monkeypatch, checkpointing):
    """Also where activations are computed again in the backward pass."""
    seen, attend = [], CausalAttention.attend

    def record(self, *arguments):
        seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        return attend(self, *arguments)

    monkeypatch.setattr(CausalAttention, "attend", record)
    assert torch.backends.cuda.cudnn_sdp_enabled()
    tokens, pseudo_tokens = make_tokens(*PROMPTS), torch.randn(5, 32)
    encode_packed(tower, tokens, pseudo_tokens, checkpointing=checkpointing).sum().backward()
    assert len(seen) == (6 if checkpointing else 3)
    tower.encode(tokens, pseudo_tokens, PLACEHOLDER)
    assert not any(seen)


def test_weights_are_rounded_together_as_autocast_rounds_them(tower, monkeypatch):
    """Features and gradients are equal to the last bit."""
    tokens, pseudo_tokens, results = make_tokens(*PROMPTS), torch.randn(5, 32), []
    for together in (True, False):
        if not together:
            monkeypatch.setattr(
                "rtd_plugin.engine.packed_tower.round_weights", lambda blocks, dtype: [{}] * len(blocks)
            )
        tower.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            features = encode_packed(tower, tokens, pseudo_tokens)
        features.square().sum().backward()
        results.append(
            {"features": features, **{name: weight.grad.clone() for name, weight in tower.named_parameters()}}
        )
    assert results[0].keys() == results[1].keys()
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name]), name


def test_autocast(tower):
    tokens, pseudo_tokens = make_tokens(*PROMPTS), torch.randn(5, 32)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        features = encode_packed(tower, tokens, pseudo_tokens)
        expected = tower.encode(tokens, pseudo_tokens, PLACEHOLDER)
    assert features.dtype == expected.dtype
    torch.testing.assert_close(features, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([[1, 2], [PLACEHOLDER]], "text 0 of the batch has no placeholder"),
        ([[PLACEHOLDER, *range(30, 60)]], "positions"),
    ],
)
def test_texts_that_cannot_be_encoded(tower, texts, message):
    with pytest.raises(RTDError, match=message):
        encode_packed(tower, make_tokens(*texts), torch.randn(len(texts), 32))


@pytest.mark.parametrize("shape", [(3,), (0, 4), (2, 0), (1, 2, 3)])
def test_tokens_that_are_not_a_batch(tower, shape):
    with pytest.raises(RTDError, match=r"needs \(B, L\)"):
        encode_packed(tower, torch.ones(shape, dtype=torch.int64))

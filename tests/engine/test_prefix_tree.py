"""The packed tower gives what the plain one gives, gradients included, and computes each node of the tree once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rtd_plugin.clip.tower import TextTower
from rtd_plugin.engine import prefix_tree as packing
from rtd_plugin.engine.prefix_tree import PackedTower, pack
from rtd_plugin.errors import RTDError

START, END, PLACEHOLDER = 298, 299, 259


@pytest.fixture(autouse=True)
def large(monkeypatch):
    """As in batches of full size, what goes into linear layers is computed again."""
    monkeypatch.setattr("rtd_plugin.engine.recomputing_linear.LARGE", 1)


@pytest.fixture(scope="module", params=["gelu", "quick_gelu"])
def tower(request, randomised):
    tower = TextTower(
        vocabulary=300, context_length=24, width=32, heads=2, layers=3, features=24, activation=request.param
    )
    randomised(tower)
    return tower


def batch(*texts):
    """Texts, token ids without start and end, as (B, L); what follows an end token is noise."""
    rows = [[START, *text, END] for text in texts]
    tokens = torch.randint(1, 299, (len(rows), max(map(len, rows)) + 2))
    for row, text in zip(tokens, rows, strict=True):
        row[: len(text)] = torch.tensor(text)
    return tokens


def assert_equal_to_the_plain_tower(
    tower, tokens, pseudo_tokens=None, placeholder=PLACEHOLDER, subjects=None, packed=None
):
    found = []
    for encode in (packed or PackedTower(tower), tower):
        tower.zero_grad()
        vectors = None if pseudo_tokens is None else pseudo_tokens.clone().requires_grad_()
        features = encode(tokens, vectors, placeholder, subjects)
        weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
        (features * weights).sum().backward()
        gradients = {name: weight.grad.clone() for name, weight in tower.named_parameters()}
        if vectors is not None:
            gradients["pseudo tokens"] = vectors.grad
        found.append((features.detach(), gradients))
    (packed, gradients), (plain, expected) = found
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
    assert_equal_to_the_plain_tower(tower, batch(*PROMPTS, *BARE), torch.randn(shape), subjects=subjects)
    assert_equal_to_the_plain_tower(tower, batch(*PROMPTS), torch.randn(shape))


def test_several_placeholders(tower):
    texts = [[PLACEHOLDER, 7, PLACEHOLDER], [PLACEHOLDER, 7, 8, PLACEHOLDER, 9], [1, 2, PLACEHOLDER, PLACEHOLDER]]
    for shape in ((3, 32), (3, 2, 32)):
        assert_equal_to_the_plain_tower(tower, batch(*texts), torch.randn(shape))


def test_a_mask_of_placeholders(tower):
    tokens = batch([1, 2, 3], [1, 2, 3, 4], [5, 6])
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    mask[0, 2] = mask[1, 2] = mask[2, 3] = True  # the last is an end token
    assert_equal_to_the_plain_tower(tower, tokens, torch.randn(3, 32), mask)


def test_another_prompt_with_and_without_a_condition(tower):
    """The bare prompt need not begin the other: then there is less to share, and the same result."""
    texts = [*PROMPTS[:2], [*OF[:2], PLACEHOLDER, 13], [PLACEHOLDER]]
    assert_equal_to_the_plain_tower(tower, batch(*texts), torch.randn(2, 32), subjects=torch.tensor([0, 1, 0, 1]))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(1, 3), max_size=8), min_size=1, max_size=12), st.integers(0, 2**32))
def test_captions(texts, seed):
    torch.manual_seed(seed)
    tower = TextTower(vocabulary=300, context_length=12, width=16, heads=2, layers=2, features=8)
    torch.nn.init.normal_(tower.token_embedding.weight)
    tokens = batch(*texts)
    found, expected = PackedTower(tower)(tokens), tower(tokens)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    packing = pack(tokens, tokens.argmax(dim=1))
    prefixes = {tuple(row[: i + 1]) for row in ([START, *text, END] for text in texts) for i in range(len(row))}
    assert len(packing.kinds) == len(prefixes)
    assert len(packing.ends) == len(set(map(tuple, texts)))


def test_long_captions_and_equal_ones(tower):
    texts = [list(range(1, 23)), [1, 2], [1, 2], [4], [1, 2], [], list(range(1, 20))]
    assert_equal_to_the_plain_tower(tower, batch(*texts))


def test_a_prompt_costs_its_condition_and_one_end_token_more():
    """Start and `a photo of` once; of each text its pseudo token, `that` and the condition, and two end tokens."""
    tokens = batch(*PROMPTS, *BARE)
    subjects = torch.arange(5).repeat(2).unsqueeze(1)
    ends = tokens.argmax(dim=1)
    packing = pack(tokens.where(tokens != PLACEHOLDER, -1 - subjects), ends)
    assert len(packing.kinds) == 4 + sum(len(prompt) - len(OF) + 2 for prompt in PROMPTS)
    assert sorted(packing.pseudo_tokens.tolist()) == [0, 1, 2, 3, 4]
    assert packing.tokens[packing.kinds[packing.ends[packing.texts]]].tolist() == [END] * 10


def test_nodes_of_a_kind_have_token_and_position_in_common():
    """In texts 5 6 and 7 6: both 6, both end tokens, and the start that is one node. A pseudo token is its own kind."""
    packing = pack(batch([5, 6], [7, 6]), torch.tensor([3, 3]))
    assert (len(packing.kinds), len(packing.tokens)) == (7, 5)
    texts = torch.tensor([[START, 5, -1, END], [START, 7, -2, END], [START, 8, -1, END]])
    packing = pack(texts, torch.tensor([3, 3, 3]))
    assert (len(packing.kinds), len(packing.tokens)) == (10, 7)
    assert sorted(packing.pseudo_tokens.tolist()) == [0, 1]


@pytest.mark.parametrize("size", [1, 2, 7, 32])
def test_nodes_attend_to_their_ancestors(monkeypatch, size):
    """Whatever the blocks: spread over all nodes, the mask is the one of who stands left of whom in a text."""
    monkeypatch.setattr(packing, "BLOCK", size)
    tokens = batch([1, 2, 3], [1, 2], [1, 2, 4, 5, 6], [7], [], [1, 8, 8, 8])
    packed = pack(tokens, tokens.argmax(dim=1))
    nodes, (blocks, size, _) = len(packed.kinds), packed.mask.shape
    assert blocks * size - nodes < blocks
    found = torch.zeros(blocks * size, nodes, dtype=torch.int64)
    for block in range(blocks):
        own = torch.arange(block * size, (block + 1) * size)
        for node, attends in zip(own.tolist(), packed.mask[block] == 0, strict=True):
            assert attends.any()
            for key in packed.keys[block][attends].tolist() if node < nodes else ():
                found[node, key] += 1
    expected = torch.zeros_like(found)
    seen = {}
    for row in ([START, *text, END] for text in ([1, 2, 3], [1, 2], [1, 2, 4, 5, 6], [7], [], [1, 8, 8, 8])):
        for place in range(len(row)):
            seen.setdefault(tuple(row[: place + 1]), None)
    for number, prefix in enumerate(sorted(seen)):
        for place in range(len(prefix)):
            expected[number, sorted(seen).index(prefix[: place + 1])] = 1
    assert torch.equal(found[:nodes], expected[:nodes])


def test_activation_checkpointing_changes_no_gradient(tower):
    tokens, pseudo, gradients, passes = batch(*PROMPTS), torch.randn(5, 32), [], []
    handle = tower.transformer.resblocks[0].attn.out_proj.register_forward_pre_hook(lambda *_: passes.append(1))
    for checkpointing in (False, True):
        tower.zero_grad()
        PackedTower(tower, checkpointing)(tokens, pseudo).square().sum().backward()
        gradients.append({name: weight.grad.clone() for name, weight in tower.named_parameters()})
        passes.append(0)
    handle.remove()
    assert passes == [1, 0, 1, 1, 0]  # with it, each block is computed twice
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)
    assert gradients[1]["positional_embedding"].abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(tower, randomised, dtype):
    tokens, pseudo = batch(*PROMPTS), torch.randn(5, 32)
    half = TextTower.from_state_dict(
        {name: weight.to(dtype) for name, weight in tower.state_dict().items()}, activation=tower.activation, heads=2
    )
    with torch.no_grad():
        rounded = PackedTower(half)(tokens, pseudo)
        torch.testing.assert_close(rounded.float(), tower(tokens, pseudo), rtol=0, atol=0.2)
    assert rounded.dtype == dtype


def test_autocast(tower):
    tower.zero_grad()
    tokens, pseudo = batch(*PROMPTS), torch.randn(5, 2, 32)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = PackedTower(tower)(tokens, pseudo)
    rounded.float().sum().backward()
    assert rounded.dtype == torch.bfloat16
    assert tower.text_projection.grad.dtype == torch.float32
    torch.testing.assert_close(rounded.float(), tower(tokens, pseudo), rtol=0, atol=0.3)


@pytest.mark.parametrize("pseudo_shape", [None, (0, 32), (0, 3, 32)])
def test_empty_batch(tower, pseudo_shape):
    pseudo = None if pseudo_shape is None else torch.zeros(pseudo_shape)
    assert PackedTower(tower)(torch.zeros(0, 9, dtype=torch.int64), pseudo).shape == (0, 24)


@pytest.mark.parametrize(
    ("texts", "shape", "message"),
    [
        ([[PLACEHOLDER], [1]], (2, 32), "text 1 of the batch has no placeholder"),
        ([[PLACEHOLDER]], (1, 31), r"shape \(1, 31\), but 1 texts at width 32 need \(1, 32\)"),
        ([[PLACEHOLDER]], (2, 32), r"shape \(2, 32\), but 1 texts"),
        ([[PLACEHOLDER, PLACEHOLDER]], (1, 3, 32), r"need 1 or 3 placeholders in each text, found \[2\]"),
        ([[PLACEHOLDER, *range(1, 22)]], (1, 3, 32), "needs 26 positions, but the text tower has 24"),
        ([[*range(1, 26)]], None, "needs 27 positions, but the text tower has 24"),
    ],
)
def test_what_cannot_be_encoded(tower, texts, shape, message):
    with pytest.raises(RTDError, match=message):
        PackedTower(tower)(batch(*texts), None if shape is None else torch.zeros(shape))


@pytest.mark.parametrize("shape", [(5,), (2, 0), (1, 2, 3)])
def test_tokens_that_are_no_batch(tower, shape):
    with pytest.raises(RTDError, match="tokens have shape"):
        PackedTower(tower)(torch.zeros(shape, dtype=torch.int64))


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's compiler looks at it, wherever there is none
@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_blocks_change_nothing(tower, checkpointing):
    """And are compiled once, whatever the sizes of the batches that follow."""
    torch._dynamo.reset()
    packed, counters = PackedTower(tower, checkpointing, compiled=True), torch._dynamo.utils.counters
    assert_equal_to_the_plain_tower(tower, batch(*PROMPTS), torch.randn(5, 32), packed=packed)
    graphs = counters["stats"]["unique_graphs"]
    texts = [*PROMPTS, *BARE[:2], [*range(1, 20), PLACEHOLDER]]
    assert_equal_to_the_plain_tower(tower, batch(*texts), torch.randn(8, 32), packed=packed)
    assert counters["stats"]["unique_graphs"] == graphs > 0


@pytest.mark.filterwarnings("ignore")
def test_without_a_compiler(tower):
    from torch._inductor import config

    torch._dynamo.reset()
    packed = PackedTower(tower, compiled=True)
    nowhere = config.patch({"cpp.cxx": (None, "/nowhere/compiler"), "force_disable_caches": True})
    with nowhere, pytest.raises(RTDError, match=r"torch.compile failed \(.*/nowhere/compiler.*set `compile: false`"):
        packed(batch([1, 2, 3]))

"""An embedding with some trained rows equals the whole embedding, also under AdamW."""

import pytest
import torch
from torch import nn

from rtd_plugin.engine.partial_embedding import PartialEmbedding

TRAINED = [2, 3, 5, 11]


@pytest.fixture
def whole():
    return nn.Embedding(12, 6)


@pytest.fixture
def partial(whole):
    return PartialEmbedding(whole.weight.clone(), TRAINED)


def test_all_embeddings_can_be_read(whole, partial):
    tokens = torch.randint(12, (4, 5))
    assert torch.equal(partial(tokens), whole(tokens))
    assert torch.equal(partial.state_dict()["weight"], whole.weight)
    assert list(partial.state_dict()) == ["weight"]
    assert [tuple(weight.shape) for weight in partial.parameters()] == [(4, 6)]
    assert not list(partial.buffers())  # data parallelism would broadcast them at every step


def test_a_state_dict_is_loaded(whole, partial):
    """Untrained rows are not loaded."""
    partial.load_state_dict({"weight": whole.weight.detach() + 1})
    after = partial(torch.arange(12))
    trained = torch.zeros(12, dtype=torch.bool).index_fill(0, torch.tensor(TRAINED), True)
    assert torch.equal(after[trained], whole.weight[trained] + 1)
    assert torch.equal(after[~trained], whole.weight[~trained])


def test_ten_steps_of_adamw_are_those_of_the_whole(whole, partial):
    before = whole.weight.detach().clone()
    rates = [0.1 / (1 + step) for step in range(10)]
    optimizers = [
        torch.optim.AdamW(embedding.parameters(), weight_decay=0.3, fused=True) for embedding in (whole, partial)
    ]
    for rate in rates:
        tokens, weights = torch.tensor(TRAINED)[torch.randint(4, (7,))], torch.randn(7, 6)
        for embedding, optimizer in zip((whole, partial), optimizers, strict=True):
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            (embedding(tokens) * weights).sum().backward()
            optimizer.step()
        partial.decay *= 1 - rate * 0.3
    torch.testing.assert_close(partial.state_dict()["weight"], whole.weight.detach(), rtol=1e-6, atol=1e-7)
    assert (whole.weight - before)[TRAINED].abs().min() > 0.01
    assert (whole.weight - before).abs().max(dim=1).values.min() > 0.01
    torch.testing.assert_close(partial(torch.arange(12)), partial.state_dict()["weight"])

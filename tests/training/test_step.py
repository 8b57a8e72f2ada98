"""A step trains the embeddings that occur, and computes captions once."""

import pytest
import torch

from rtd_plugin import hookimpl
from rtd_plugin.contract.plugins import use_plugins
from rtd_plugin.engine.partial_embedding import PartlyTrainedEmbedding
from rtd_plugin.engine.prefix_tree import PackedTower
from rtd_plugin.training.loop import make_accelerator
from rtd_plugin.training.objective import rtd_objective
from rtd_plugin.training.step import Stepper


class Objective:
    """The published one, by another plugin."""

    @hookimpl
    def rtd_objective(self, inputs):
        return rtd_objective(inputs)


@pytest.fixture
def stepper(make_run):
    def stepper(*overrides):
        run = make_run("run", *overrides)
        return Stepper(run, make_accelerator(run.recipe))

    return stepper


def test_tokens_that_do_not_occur_are_not_trained(stepper):
    embedding = stepper().tower.token_embedding
    assert isinstance(embedding, PartlyTrainedEmbedding)
    assert len(embedding.weight) < 100


def test_another_objective_may_use_any_token(stepper, same_weights):
    """And the published one gives the same tower either way: what is not trained decays."""
    overrides = ("optimizer={learning_rate: 1.0e-3, weight_decay: 0.5}",)
    partly = stepper(*overrides)
    losses = [partly.take(step, 1e-3 / (1 + step)) for step in range(5)]
    with use_plugins(Objective()):
        whole = stepper(*overrides)
        assert len(whole.tower.token_embedding.weight) == 49408
        assert [whole.take(step, 1e-3 / (1 + step)) for step in range(5)] == losses
    before = partly.run.tower.state_dict()
    found, expected = partly.tuned().state_dict(), whole.tuned().state_dict()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    moved = (expected["token_embedding.weight"] - before["token_embedding.weight"]).abs().max(dim=1).values
    assert moved.min() > 1e-4  # all decayed


@pytest.mark.parametrize("hard_negatives", [True, False])
def test_captions_are_computed_once(stepper, monkeypatch, tmp_path, hard_negatives):
    """Over two epochs the frozen tower is asked in the first alone, and the losses are those without a file."""
    computed = []
    forward = PackedTower.forward

    def counted(self, tokens, *arguments):
        if not torch.is_grad_enabled():
            computed.append(len(tokens))
        return forward(self, tokens, *arguments)

    overrides = ("batch_size=60", f"objective.hard_negatives={hard_negatives}", f"seed={100 + hard_negatives}")
    monkeypatch.setattr(PackedTower, "forward", counted)
    kept = stepper(*overrides)
    losses = [kept.take(step, 1e-3) for step in range(4)]
    distinct = [len(stepper(*overrides).windows.batch(number).numbers.unique()) for number in range(2)]
    assert computed == distinct
    anew = stepper(*overrides)
    assert [anew.take(step, 1e-3) for step in range(4)] == losses
    assert computed == distinct
    monkeypatch.setattr("rtd_plugin.engine.caption_features.LIMIT", 0)
    monkeypatch.setenv("RTD_PLUGIN_CACHE", str(tmp_path / "another"))
    without = stepper(*overrides)
    assert [without.take(step, 1e-3) for step in range(4)] == pytest.approx(losses, rel=1e-6)
    assert len(computed) == 6


@pytest.mark.parametrize("accumulation", [1, 2])
def test_blocks_are_updated_on_the_way_back(stepper, monkeypatch, accumulation):
    """To the bit what updates at the end give, which clipping has to wait for."""
    monkeypatch.setattr("rtd_plugin.training.step.UPDATED_TOGETHER", 1)
    overrides = (f"accumulation={accumulation}", "optimizer.weight_decay=0.5")
    early, late = stepper(*overrides), stepper(*overrides, "optimizer.max_grad_norm=1.0e9")
    most = {}
    for taker in (early, late):
        update = taker.optimizer.step

        def counted(taker=taker, update=update):
            here = sum(parameter.grad is not None for parameter in taker.tower.parameters())
            most[taker] = max(most.get(taker, 0), here)
            update()

        taker.optimizer.step = counted
    assert [early.take(step, 1e-3) for step in range(3)] == [late.take(step, 1e-3) for step in range(3)]
    torch.testing.assert_close(early.tower.state_dict(), late.tower.state_dict(), rtol=0, atol=0)
    assert most[late] == len(list(late.tower.parameters()))
    if accumulation == 1:
        assert most[early] < most[late] / 1.5


def test_another_objective_finds_all_weights_as_they_were(stepper, monkeypatch):
    """Whatever it reads of them on the way back."""

    class Anchored:
        @hookimpl
        def rtd_objective(self, inputs):
            blocks = inputs.encode.tower.transformer.resblocks
            one, other = (block.attn.in_proj_weight for block in (blocks[0], blocks[-1]))
            penalty = (one * other.detach()).square().sum()  # the way back comes to what was first last
            return rtd_objective(inputs) + penalty

    monkeypatch.setattr("rtd_plugin.training.step.UPDATED_TOGETHER", 1)
    with use_plugins(Anchored()):
        early, late = stepper(), stepper("optimizer.max_grad_norm=1.0e9")
        assert [early.take(step, 1e-3) for step in range(3)] == [late.take(step, 1e-3) for step in range(3)]


def test_small_frozen_weights_are_not_mapped(stepper, monkeypatch):
    monkeypatch.delattr("rtd_plugin.training.step.WeightFile")
    stepper().take(0, 1e-3)


def test_frozen_weights_stay_in_memory_where_the_disk_is_full(stepper, monkeypatch, caplog):
    monkeypatch.setattr("rtd_plugin.training.step.MAPPED_FROM", 0)
    mapped = stepper()
    losses = [mapped.take(step, 1e-3) for step in range(2)]

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rtd_plugin.training.step.WeightFile", full)
    in_memory = stepper()
    assert "no room for the frozen weights (No space left on device)" in caplog.text
    assert [in_memory.take(step, 1e-3) for step in range(2)] == losses

"""Batches come with their captions' features, computed for several batches together."""

import pytest
import torch

from rtd_plugin.engine import batch_groups as windows
from rtd_plugin.engine.batch_groups import longest_window, window
from rtd_plugin.engine.prefix_tree import PackedTower
from rtd_plugin.training.loop import make_accelerator
from rtd_plugin.training.objective import stack
from rtd_plugin.training.step import Stepper


@pytest.mark.parametrize("longest", [1, 2, 8, 128])
def test_each_batch_is_in_one_window(longest):
    following = []
    while len(following) < 300:
        here = window(len(following), longest)
        assert all(window(number, longest) == here for number in here)
        following += here
    assert following == list(range(len(following)))


def test_windows_grow():
    assert [len(window(number, 16)) for number in (0, 1, 2, 4, 8, 16, 32, 512)] == [1, 1, 2, 4, 8, 16, 16, 16]


@pytest.mark.parametrize(("captions", "batches"), [(1, 1), (15, 1), (16, 2), (100, 8)])
def test_a_window_has_no_more_captions_than_are_computed_in_seconds(make_run, monkeypatch, captions, batches):
    run = make_run("run", "batch_size=4")
    weights = sum(parameter.numel() for parameter in run.tower.transformer.parameters())
    monkeypatch.setattr(windows, "WORK", captions * weights)
    assert longest_window(run) == batches
    monkeypatch.setattr(windows, "CAPTIONS", captions)
    monkeypatch.setattr(windows, "WORK", 2**60)
    assert longest_window(run) == batches


@pytest.fixture
def stepper(make_run):
    def stepper(*overrides):
        run = make_run("run", "batch_size=4", *overrides)
        return Stepper(run, make_accelerator(run.recipe))

    return stepper


def test_features_are_those_of_each_batch(stepper):
    stepper = stepper()
    for number in (0, 3, 5, 40):
        batch = stepper.windows.batch(number)
        alone = stepper.run.tower.encode(stack(batch.targets, batch.references))
        torch.testing.assert_close(batch.features, alone, rtol=1e-4, atol=1e-5)


def test_captions_of_a_window_are_computed_together(stepper, monkeypatch):
    """Each one once, as many at a time as a batch has; and fewer tokens of them are left."""
    texts, passes = [], []
    forward, encode = PackedTower.forward, PackedTower._encode
    monkeypatch.setattr(
        PackedTower, "forward", lambda self, tokens, *more: texts.append(len(tokens)) or forward(self, tokens, *more)
    )
    monkeypatch.setattr(
        PackedTower,
        "_encode",
        lambda self, packing, *more: passes.append(len(packing.tokens)) or encode(self, packing, *more),
    )
    together = stepper("seed=1").windows
    numbers = torch.cat([together.batch(number).numbers for number in range(8, 16)])
    assert set(texts[:-1]) == {8}
    assert sum(texts) == len(numbers.unique())
    monkeypatch.setattr(windows, "CAPTIONS", 8)
    alone, before = stepper("seed=1").windows, sum(passes)
    for number in range(8, 16):
        alone.batch(number)
    assert before < 0.9 * (sum(passes) - before)


@pytest.mark.parametrize("cache", ["the same", "another"])
def test_a_window_entered_in_its_middle_is_the_same_to_the_bit(stepper, monkeypatch, tmp_path, cache):
    """As a run that is resumed does, with its features kept or not; this one is in two epochs, so captions recur."""
    whole = stepper("seed=2").windows
    expected = [whole.batch(number) for number in range(16, 32)]
    if cache == "another":
        monkeypatch.setenv("RTD_PLUGIN_CACHE", str(tmp_path / cache))
    resumed = stepper("seed=2").windows
    for number in reversed(range(21, 32)):
        assert torch.equal(resumed.batch(number).features, expected[number - 16].features)
        assert torch.equal(resumed.batch(number).queries, expected[number - 16].queries)
    numbers = torch.cat([batch.numbers.flatten() for batch in expected])
    assert len(numbers.unique()) < len(numbers)

"""Batches come with their captions' features, computed for several batches together."""

import pytest
import torch

from rtd_plugin.clip.packing import PackedTower
from rtd_plugin.training import windows
from rtd_plugin.training.loop import make_accelerator
from rtd_plugin.training.objective import stack
from rtd_plugin.training.step import Stepper
from rtd_plugin.training.windows import window


@pytest.mark.parametrize("longest", [0, 1, 2, 3, 5, 8, 100])
def test_each_batch_is_in_one_window(longest):
    following = []
    while len(following) < 300:
        here = window(len(following), longest)
        assert all(window(number, longest) == here for number in here)
        following += here
    assert following == list(range(len(following)))


def test_windows_grow():
    assert [len(window(number, 20)) for number in (0, 1, 2, 4, 8, 16, 32, 512)] == [1, 1, 2, 4, 8, 16, 16, 16]


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
    """Each part of them as large as a batch, and what parts begin with alike computed once in each."""
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
    together = stepper("seed=1")
    for number in range(8, 16):
        together.windows.batch(number)
    assert texts == [8] * 8
    monkeypatch.setattr(windows, "CAPTIONS", 8)
    alone, before = stepper("seed=1"), sum(passes)
    for number in range(8, 16):
        alone.windows.batch(number)
    assert texts == [8] * 16
    assert before < 0.9 * (sum(passes) - before)


def test_a_window_entered_in_its_middle_is_the_same_to_the_bit(stepper, monkeypatch, tmp_path):
    """As a run that is resumed does, with its features kept or not."""
    whole = stepper("seed=2")
    expected = [whole.windows.batch(number) for number in range(16, 24)][5]
    for cache in ("", "another"):
        if cache:
            monkeypatch.setenv("RTD_PLUGIN_CACHE", str(tmp_path / cache))
        found = stepper("seed=2").windows.batch(21)
        assert torch.equal(found.features, expected.features)
        assert torch.equal(found.queries, expected.queries)

"""The step, plain and fast, against a simple implementation of the paper's."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from rtd_adapters.lincir import LinCIR
from slow_step import PLACEHOLDER, take_slow_step
from torch import nn

from rtd_plugin.engine.frozen_encoder import PackedFrozen
from rtd_plugin.engine.packed_tower import PackedTower
from rtd_plugin.training.batches import make_batch, make_noise, stack_composed, stack_tokens
from rtd_plugin.training.frozen import PlainFrozen
from rtd_plugin.training.plain import PlainTower
from rtd_plugin.training.recipe import Objective
from rtd_plugin.training.step import compute_loss


def prepare_plain(tower, frozen, projection):
    return PlainTower(tower), PlainFrozen(frozen, projection)


def prepare_fast(tower, frozen, projection):
    return PackedTower(tower, torch.device("cpu")), PackedFrozen(frozen, projection)


@pytest.fixture
def take_step(adapter, tokenise_batch):
    """Compute a batch's loss as a run does."""

    def take_step(encoder, frozen, triplets, settings, seed=5):
        projected = settings.concatenation == "projected"
        batch = make_batch(tokenise_batch(triplets, adapter.prompt), adapter, 77, projected)
        queries, count = frozen.count_pseudo_tokens() if projected else (1, None)
        tokens, subjects = stack_composed(batch, settings.hard_negatives, queries)
        batch = replace(
            batch,
            noise=make_noise((len(triplets), frozen.tower.features), settings.noise_scale, seed),
            composed=encoder.prepare(tokens, PLACEHOLDER, subjects, count),
        )
        if isinstance(frozen, PackedFrozen):
            batch = replace(
                batch, packed_captions=frozen.encoder.prepare(stack_tokens(batch.targets, batch.references))
            )
        return compute_loss(batch, encoder, frozen, settings), batch.noise

    return take_step


@pytest.fixture
def compare(take_step):
    """Assert that a step and the slow one have equal losses and gradients."""

    def compare(prepare, tower, projection, triplets, settings, shares=(1,)):
        frozen, slow = copy.deepcopy(tower), copy.deepcopy(tower)
        loss, noise = take_step(*prepare(tower, copy.deepcopy(frozen), projection), triplets, settings)
        expected = take_slow_step(slow, frozen, projection, triplets, settings, noise, shares)
        loss.backward()
        expected.backward()
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
        for (name, weight), slow_weight in zip(tower.named_parameters(), slow.parameters(), strict=True):
            gradient, largest = slow_weight.grad, slow_weight.grad.abs().max().item()
            assert largest > 1e-4, f"{name}: a gradient this small proves nothing"
            torch.testing.assert_close(weight.grad, gradient, rtol=1e-4, atol=1e-4 * largest, msg=name)

    return compare


@pytest.fixture(params=[prepare_plain, prepare_fast])
def compare_steps(request, compare):
    return partial(compare, request.param)


@pytest.mark.parametrize(
    "settings",
    [
        {"noise_scale": 0.0},
        {},
        {"hard_negatives": False},
        {"concatenation": "text"},
        {"temperature": 0.3, "noise_scale": 1.0},
        {"negatives": "gathered"},
    ],
    ids=str,
)
def test_the_step_is_the_slow_step(compare_steps, tower, projection, triplets, settings):
    compare_steps(tower, projection, triplets[5:40:7], Objective(**settings))


def test_a_step_with_several_pseudo_tokens(compare_steps, tower, triplets):
    class Several(nn.Module):
        def forward(self, features):
            return torch.stack([features[:, :16], -features[:, 16:], features.flip(0)[:, :16]], dim=1)

    compare_steps(tower, Several(), triplets[:20:6], Objective())


class Average(LinCIR):
    """Averages the features of two composed queries, the second with two thirds of the pseudo token."""

    def project(self, projection, inputs):
        pseudo_tokens = projection(inputs.features)
        return pseudo_tokens, pseudo_tokens * 2 / 3


@pytest.mark.parametrize("settings", [{}, {"hard_negatives": False}, {"concatenation": "text"}], ids=str)
@pytest.mark.parametrize("prepare", [prepare_plain, prepare_fast])
def test_a_step_that_averages_several_composed_queries(prepare, compare, tower, projection, triplets, settings):
    def prepare_average(*models):
        encoder, frozen = prepare(*models)
        frozen.adapter = Average()
        return encoder, frozen

    shares = [1, 2 / 3] if settings.get("concatenation") != "text" else [1]
    compare(prepare_average, tower, projection, triplets[5:40:7], Objective(**settings), shares)


def test_what_is_frozen_gets_no_gradients(take_step, tower, projection, triplets):
    frozen = PlainFrozen(copy.deepcopy(tower), projection.train().requires_grad_(True))
    assert not any(module.training for module in frozen.modules())
    take_step(PlainTower(tower), frozen, triplets[:4], Objective())[0].backward()
    assert all(parameter.grad is None for parameter in frozen.parameters())
    assert all(parameter.grad is not None for parameter in tower.parameters())


def test_noise_is_normal_times_one_uniform_a_row():
    """Each row's noise over its strength is normal, and the strengths are uniform on (0, scale)."""
    noise = make_noise((1500, 32), 0.5, 0)
    strengths = noise.std(dim=1, correction=0)
    assert strengths.mean().item() == pytest.approx(0.25, abs=0.015)  # of U(0, 0.5)
    assert (strengths < 0.1).float().mean().item() == pytest.approx(0.2, abs=0.04)
    assert 0.4 < strengths.max() < 0.7
    normal = noise / strengths.unsqueeze(1)
    assert normal.mean().item() == pytest.approx(0, abs=0.02)
    assert (normal.abs() < 1).float().mean().item() == pytest.approx(0.68, abs=0.02)
    assert torch.corrcoef(noise[:, :4].T).triu(1).abs().max() < 0.1
    torch.testing.assert_close(make_noise((1500, 32), 1.5, 0), 3 * noise)
    assert not make_noise((3, 4), 0.0, 0).any()

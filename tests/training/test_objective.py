"""The objective against loops that spell out what the paper says."""

import copy
import math
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rtd_plugin.clip.tokens import END, START, clean_caption, encode_text
from rtd_plugin.errors import RTDError
from rtd_plugin.training.batches import make_batch
from rtd_plugin.training.loop import make_accelerator
from rtd_plugin.training.objective import FrozenSide, objective_inputs, rtd_loss, rtd_objective
from rtd_plugin.training.recipe import Objective
from rtd_plugin.training.step import Stepper
from rtd_plugin.triplets.token_store import tokenise_triplet

PLACEHOLDER = 259


def slow_loss(queries, targets, temperature):
    rows = [row / row.norm() for row in [*queries, *targets]]
    n = len(queries)
    losses = []
    for anchor in range(2 * n):
        similarities = {other: rows[anchor] @ rows[other] / temperature for other in range(2 * n) if other != anchor}
        positive = similarities[(anchor + n) % (2 * n)]
        losses.append(torch.logsumexp(torch.stack(list(similarities.values())), 0) - positive)
    return torch.stack(losses).mean()


def slow_encode(tower, ids, pseudo_tokens=None):
    """One text, padded to 77 tokens, through a transformer that is written out."""
    if pseudo_tokens is not None:
        at = ids.index(PLACEHOLDER)
        ids = [*ids[:at], *[PLACEHOLDER] * len(pseudo_tokens), *ids[at + 1 :]]
    ids = [START, *ids, END]
    x = tower.token_embedding.weight[ids + [0] * (77 - len(ids))]  # (77, W)
    if pseudo_tokens is not None:
        x = torch.cat([x[: at + 1], pseudo_tokens, x[at + 1 + len(pseudo_tokens) :]])
    x = x + tower.positional_embedding
    hidden_future = torch.full((77, 77), -math.inf).triu(1)
    for block in tower.transformer.resblocks:
        q, k, v = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, dim=1)
        size = q.shape[1] // tower.heads
        heads = [
            torch.softmax(a @ b.T / math.sqrt(size) + hidden_future, dim=1) @ c
            for a, b, c in zip(q.split(size, 1), k.split(size, 1), v.split(size, 1), strict=True)
        ]
        x = x + block.attn.out_proj(torch.cat(heads, dim=1))
        x = x + block.mlp(block.ln_2(x))
    return tower.ln_final(x[len(ids) - 1]) @ tower.text_projection


def slow_step(tower, frozen, projection, triplets, settings, generator):
    """A step as the paper has it, text by text."""

    def caption(text):
        return encode_text(clean_caption(text))

    with torch.no_grad():
        targets = [slow_encode(frozen, caption(triplet.target)) for triplet in triplets]
        references = [slow_encode(frozen, caption(triplet.reference)) for triplet in triplets]
        strength = torch.rand(len(triplets), 1, generator=generator)
        noise = torch.randn(len(triplets), frozen.features, generator=generator)
        noised = torch.stack(references) + settings.noise_scale * strength * noise
        pseudo_tokens = projection(noised)
        if pseudo_tokens.ndim == 2:
            pseudo_tokens = pseudo_tokens.unsqueeze(1)

    def query(number, ending):
        start = encode_text("a photo of")
        if settings.concatenation == "text":
            return slow_encode(tower, start + caption(triplets[number].reference) + ending)
        return slow_encode(tower, [*start, PLACEHOLDER, *ending], pseudo_tokens[number])

    queries = [
        query(number, encode_text("that " + triplet.condition.replace("$", " ")))
        for number, triplet in enumerate(triplets)
    ]
    if settings.hard_negatives:
        queries += [query(number, []) for number in range(len(triplets))]
        targets += references
    return slow_loss(queries, targets, settings.temperature)


def compare_steps(tower, projection, adapter, triplets, settings):
    """Assert that the objective and the slow one have equal losses and gradients."""
    frozen, slow = copy.deepcopy(tower), copy.deepcopy(tower)
    batch = make_batch(
        [tokenise_triplet(triplet, adapter.prompt) for triplet in triplets],
        adapter,
        77,
        settings.concatenation == "projected",
    )
    loss = rtd_objective(
        objective_inputs(
            tower,
            FrozenSide(copy.deepcopy(frozen), projection),
            batch,
            PLACEHOLDER,
            settings,
            torch.Generator().manual_seed(5),
        )
    )
    expected = slow_step(slow, frozen, projection, triplets, settings, torch.Generator().manual_seed(5))
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    for (name, one), other in zip(tower.named_parameters(), slow.parameters(), strict=True):
        assert other.grad.abs().max() > 1e-4, f"{name}: a gradient this small proves nothing"
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4 * other.grad.abs().max().item(), msg=name)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize(("n", "width"), [(1, 4), (2, 3), (5, 16), (8, 2)])
def test_loss_is_the_loop_over_anchors(n, width, temperature):
    torch.manual_seed(n)
    queries, targets = torch.randn(n, width, requires_grad=True), 3 * torch.randn(n, width)
    targets.requires_grad_(True)
    loss, expected = rtd_loss(queries, targets, temperature), slow_loss(queries, targets, temperature)
    torch.testing.assert_close(loss, expected)
    for one, other in zip(
        torch.autograd.grad(loss, (queries, targets)), torch.autograd.grad(expected, (queries, targets)), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_loss_by_hand():
    """Two pairs of equal unit vectors at right angles: each anchor has similarity 1 / 0.5 once and 0 twice."""
    rows = torch.eye(2)
    assert rtd_loss(rows, 7 * rows, 0.5).item() == pytest.approx(math.log(math.exp(2) + 2) - 2)


def test_loss_in_half_precision_is_computed_in_fp32():
    rows = torch.randn(4, 8, dtype=torch.bfloat16)
    torch.testing.assert_close(rtd_loss(rows, rows.flip(0)), rtd_loss(rows.float(), rows.flip(0).float()))


@pytest.mark.parametrize("shapes", [((2, 4), (3, 4)), ((4,), (4,)), ((2, 4), (2, 5))])
def test_loss_refuses_other_shapes(shapes):
    with pytest.raises(RTDError, match=r"both need \(n, D\)"):
        rtd_loss(*(torch.ones(shape) for shape in shapes))


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
def test_step_is_the_slow_step(tower, projection, adapter, triplets, settings):
    compare_steps(tower, projection, adapter, triplets[5:40:7], Objective(**settings))


def test_step_with_several_pseudo_tokens(tower, adapter, triplets):
    class Several(nn.Module):
        def forward(self, features):
            return torch.stack([features[:, :16], -features[:, 16:], features.flip(0)[:, :16]], dim=1)

    compare_steps(tower, Several(), adapter, triplets[:20:6], Objective())


def without_keys(name, weight):
    """A key's bias cancels in the softmax: its gradient is rounding error alone, which Adam blows up."""
    return torch.cat([weight.chunk(3)[0], weight.chunk(3)[2]]) if name.endswith("in_proj_bias") else weight


def test_twenty_steps_are_slow_ones(make_run, triplets):
    """In loss and gradients at every step, and in the weights at the end."""
    rate = 1e-4
    overrides = ("steps=20", "batch_size=2", "shuffle=false", "objective.noise_scale=0", "optimizer.weight_decay=0.1")
    run = make_run("run", *overrides, f"optimizer.learning_rate={rate}")
    stepper = Stepper(run, make_accelerator(run.recipe))
    gradients = {}

    def note(*_):
        for name, weight in stepper.tower.named_parameters():
            if weight.grad is not None:
                gradients[name] = weight.grad.clone()

    stepper.optimizer.optimizer.register_step_pre_hook(note)
    trained = stepper.tower.token_embedding.trained
    slow = copy.deepcopy(run.tower).requires_grad_(True)
    optimizer = torch.optim.AdamW(slow.parameters(), lr=rate, weight_decay=0.1)
    for step in range(20):
        optimizer.zero_grad()
        gradients.clear()
        part = triplets[2 * step : 2 * step + 2]
        expected = slow_step(slow, run.tower, run.projection, part, run.recipe.objective, torch.Generator())
        expected.backward()
        assert stepper.take(step, rate) == pytest.approx(expected.item(), rel=1e-5)
        for name, weight in slow.named_parameters():
            one, other = without_keys(name, gradients[name]), without_keys(name, weight.grad)
            if name == "token_embedding.weight":
                assert other.count_nonzero() == other[trained].count_nonzero() > 0
                other = other[trained]
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * other.abs().max().item(), msg=name)
        optimizer.step()
    before = run.tower.state_dict()
    for (name, one), other in zip(stepper.tuned().named_parameters(), slow.parameters(), strict=True):
        one, other, old = (without_keys(name, weight.detach()) for weight in (one, other, before[name]))
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5, msg=name)
        assert (one - old).abs().max() > 5 * rate


def test_frozen_side_gets_no_gradients(tower, projection, adapter, triplets):
    frozen = FrozenSide(copy.deepcopy(tower), projection.train().requires_grad_(True))
    assert not frozen.training
    assert not any(module.training for module in frozen.modules())
    batch = make_batch([tokenise_triplet(triplet, adapter.prompt) for triplet in triplets[:4]], adapter, 77)
    rtd_objective(objective_inputs(tower, frozen, batch, PLACEHOLDER, Objective(), torch.Generator())).backward()
    assert all(parameter.grad is None for parameter in frozen.parameters())
    assert all(parameter.grad is not None for parameter in tower.parameters())


def test_noise_is_normal_times_one_uniform_a_row(tower, adapter, triplets):
    """Each row's noise over its strength is normal, and the strengths are uniform on (0, scale)."""
    frozen = FrozenSide(tower, nn.Identity())
    batch = make_batch([tokenise_triplet(triplet, adapter.prompt) for triplet in (triplets * 20)[:1500]], adapter, 77)
    _, references, noised = frozen(batch, 0.5, torch.Generator().manual_seed(0))
    noise = noised - references  # (1500, 32)
    strengths = noise.std(dim=1, correction=0)
    assert strengths.mean().item() == pytest.approx(0.25, abs=0.015)  # of U(0, 0.5)
    assert (strengths < 0.1).float().mean().item() == pytest.approx(0.2, abs=0.04)
    assert 0.4 < strengths.max() < 0.7
    normal = noise / strengths.unsqueeze(1)
    assert normal.mean().item() == pytest.approx(0, abs=0.02)
    assert (normal.abs() < 1).float().mean().item() == pytest.approx(0.68, abs=0.02)
    assert torch.corrcoef(noise[:, :4].T).triu(1).abs().max() < 0.1

    _, _, more = frozen(batch, 1.5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(more - references, 3 * noise, rtol=1e-4, atol=1e-4)
    _, _, none = frozen(batch, 0.0, torch.Generator().manual_seed(0))
    assert torch.equal(none, references)


def test_loss_is_imported_without_the_training_libraries():
    code = "import sys, rtd_plugin; rtd_plugin.rtd_loss; print(sys.modules.keys() & {'accelerate', 'open_clip'})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"

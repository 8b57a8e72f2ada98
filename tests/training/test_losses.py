"""Losses that are read several steps late, as on a GPU, and steps that a gradient scaler skips."""

import pytest
import torch

from rtd_plugin.engine.build import build_engine
from rtd_plugin.errors import RTDError
from rtd_plugin.training import losses
from rtd_plugin.training.loop import make_accelerator
from rtd_plugin.training.trainer import Trainer


@pytest.fixture
def read_late(monkeypatch):
    monkeypatch.setattr(losses, "STEPS_A_READ", {"cpu": 10})


def test_losses_read_late_are_those_read_at_once(train_run, metrics, same_weights, monkeypatch):
    at_once, _ = train_run("at once", "steps=5", "checkpoints.every=5")
    monkeypatch.setattr(losses, "STEPS_A_READ", {"cpu": 3})
    reports = []
    late, _ = train_run("late", "steps=5", "checkpoints.every=5", report=lambda report: reports.append(report.step))
    assert same_weights(late, at_once)
    assert metrics("late") == metrics("at once")
    assert reports == [1, 2, 3, 4, 5]


def test_a_loss_that_is_not_finite_is_found_late_with_its_step(train_run, metrics, read_late, monkeypatch, tmp_path):
    """The checkpoints are from before it."""
    take_step = Trainer.take_step

    def break_step_5(self, step, rate):
        return take_step(self, step, rate) * (float("nan") if step == 4 else 1.0)

    monkeypatch.setattr(Trainer, "take_step", break_step_5)
    with pytest.raises(RTDError, match=r"the loss is nan at step 5, in batch 5: lower"):
        train_run("run", "steps=20", "checkpoints={every: 3, keep: 9}")
    assert [line["step"] for line in metrics("run")] == [1, 2, 3, 4]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000003"]


def test_untrained_embeddings_do_not_decay_in_a_step_that_is_skipped(make_run):
    """A gradient out of range lowers the scale; accelerate does not notice with a fused optimizer."""
    run = make_run("run", "optimizer={learning_rate: 1.0e-3, weight_decay: 0.5}")
    accelerator = make_accelerator(run.recipe)
    accelerator.scaler = scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    trainer = Trainer(run, accelerator, build_engine)
    embedding = trainer.tower.token_embedding
    weights = {name: weight.clone() for name, weight in trainer.tower.state_dict().items()}
    compute_loss = trainer._compute_loss
    trainer._compute_loss = lambda batch: 1e6 * compute_loss(batch)
    trainer.take_step(0, 1e-3)
    assert scaler.get_scale() < 2.0**127
    assert embedding.decay == 1
    assert all(torch.equal(weight, weights[name]) for name, weight in trainer.tower.state_dict().items())
    scaler._scale.fill_(1.0)
    trainer._compute_loss = compute_loss
    trainer.take_step(1, 1e-3)
    assert embedding.decay.item() == pytest.approx(1 - 1e-3 * 0.5)

"""Training on one wording of each request in an epoch."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rtd_plugin.engine.build import build_engine
from rtd_plugin.errors import UsageError
from rtd_plugin.training.batches import RunBatches, make_batch
from rtd_plugin.training.frozen import PlainFrozen
from rtd_plugin.training.held_out import HeldOutTriplets
from rtd_plugin.training.loop import make_accelerator
from rtd_plugin.training.loss import rtd_loss
from rtd_plugin.training.plain import build_plain
from rtd_plugin.training.trainer import Trainer

ONE_PROCESS = SimpleNamespace(process_index=0, num_processes=1)
PLACEHOLDER = 259
FROZEN = SimpleNamespace(count_pseudo_tokens=lambda: (1, 1))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RTD_PLUGIN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def make_wordings_run(make_run, tmp_path):
    """A run on 120 requests, each in three wordings."""
    return lambda *overrides: make_run(
        "run", "wording.sample=true", f"triplets.0.path={tmp_path / 'wordings.jsonl'}", *overrides
    )


def test_an_epoch_has_each_request_once_and_three_epochs_have_all_wordings(make_wordings_run):
    run = make_wordings_run("batch_size=40")
    assert (len(run.triplets), run.triplets.records) == (120, 360)
    batches = RunBatches(run, ONE_PROCESS, lambda *texts: None, FROZEN)
    queries = set()
    for epoch in range(3):
        taken = [batches[3 * epoch + index] for index in range(3)]
        rows = torch.cat([batch.rows for batch in taken]).tolist()
        assert sorted(rows) == list(range(120))
        queries |= {
            (row, *(token for token in query if token))
            for batch in taken
            for row, query in zip(batch.rows.tolist(), batch.queries.tolist(), strict=True)
        }
    assert len(queries) == 360


def test_the_engine_trains_as_the_plain_one_over_two_epochs(make_wordings_run):
    """In the second, features of captions come from the cache."""
    run = make_wordings_run("batch_size=60")
    losses = []
    for build in (build_engine, build_plain):
        trainer = Trainer(run, make_accelerator(run.recipe), build)
        losses.append([trainer.take_step(step, 1e-3).item() for step in range(4)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_held_out_requests_are_queries_in_one_wording(make_wordings_run, tower):
    run = make_wordings_run("validation={triplets: 0.2}")
    assert 24 <= len(run.held_out) <= 28
    assert len(run.triplets) + len(run.held_out) == 120
    measured, *trained = (
        {*map(tuple, triplets.gather(np.arange(len(triplets)), epoch).captions.tolist())}
        for triplets, epoch in ((run.held_out, 0), (run.triplets, 0), (run.triplets, 1))
    )
    assert len(measured) == len(run.held_out)
    assert trained[0] == trained[1]
    assert not {reference for reference, _ in measured} & {reference for reference, _ in trained[0]}
    metrics = HeldOutTriplets(run, run.held_out, torch.device("cpu")).measure(tower)
    assert len(metrics.values["recall_at_1"]) == len(run.held_out)


def test_consistency_needs_two_wordings(make_run):
    with pytest.raises(UsageError, match=r"wording.*consistency compares two wordings"):
        make_run("run", "wording.consistency=0.5")


@pytest.mark.parametrize("build", [build_engine, build_plain])
def test_consistency_adds_the_distance_between_two_wordings(make_wordings_run, build):
    """The loss is that of both wordings, and the distance with a weight that grows with the steps."""
    run = make_wordings_run("batch_size=40", "steps=4", "wording.consistency=2.0")
    trainer = Trainer(run, make_accelerator(run.recipe), build)
    settings, frozen = run.recipe.objective, PlainFrozen(copy.deepcopy(run.tower), run.projection)
    texts = {(row, later): text for later in range(3) for row, text in enumerate(list_queries(run, later))}
    for step in range(4):
        batch = trainer._engine.batches[step]
        later = [texts[row, step // 3 + 1] for row in batch.rows.tolist()]
        assert [tuple(filter(None, text)) for text in batch.reworded.tolist()] == later
        targets, references = frozen.features(batch)
        pseudo_tokens = frozen.project(references + batch.noise, batch.queries)
        first, reworded, unconditioned = (
            trainer.tower.encode(tokens, pseudo_tokens, tokens == PLACEHOLDER)
            for tokens in (batch.queries, batch.reworded, batch.unconditioned)
        )
        pairs = torch.cat([targets, references])
        losses = [
            rtd_loss(torch.cat([queries, unconditioned]), pairs, settings.temperature) for queries in (first, reworded)
        ]
        cosines = (F.normalize(first, dim=1) * F.normalize(reworded, dim=1)).sum(dim=1)
        expected = sum(losses) / 2 + 2.0 * (step + 1) / 4 * (1 - cosines.mean()) / settings.temperature
        assert trainer.take_step(step, 1e-3).item() == pytest.approx(expected.item(), rel=1e-5)


def list_queries(run, later):
    """Return the tokens of each request's query, without padding, in the wording of a later visit than the first."""
    triplets = run.triplets.gather(np.arange(len(run.triplets)), later=later)
    return [tuple(filter(None, text)) for text in make_batch(triplets, run.adapter, 77).queries.tolist()]

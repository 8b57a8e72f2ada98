"""Training on one wording of each request in an epoch."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rtd_plugin.engine.build import build_engine
from rtd_plugin.training.batches import RunBatches
from rtd_plugin.training.held_out import HeldOutTriplets
from rtd_plugin.training.loop import make_accelerator
from rtd_plugin.training.plain import build_plain
from rtd_plugin.training.trainer import Trainer

ONE_PROCESS = SimpleNamespace(process_index=0, num_processes=1)
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

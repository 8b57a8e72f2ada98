"""The plain loss of some triplets of a run, for tests of several processes."""

import copy
from dataclasses import replace

from rtd_plugin.training.batches import make_batch, make_noise, stack_composed
from rtd_plugin.training.frozen import PlainFrozen
from rtd_plugin.training.plain import PlainTower
from rtd_plugin.training.step import compute_loss


def compute_batch_loss(run, tower, rows, settings):
    """Return the loss of a run's triplets with these indices, without noise."""
    batch = make_batch(run.triplets.gather(rows), run.adapter, 77)
    encoder = PlainTower(tower)
    tokens, subjects = stack_composed(batch, hard_negatives=True)
    batch = replace(
        batch,
        noise=make_noise((len(rows), tower.features), 0.0, 0),
        composed=encoder.prepare(tokens, run.adapter.prompt.placeholder_id, subjects, 1),
    )
    return compute_loss(batch, encoder, PlainFrozen(copy.deepcopy(run.tower), run.projection), settings)

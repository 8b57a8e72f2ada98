"""What each of two processes does for `test_processes`: losses and gradients of half a batch, then a whole run.

Globals: RECIPE, FOLDER, OVERRIDES, ENVIRONMENT.
"""

import copy
import os
import warnings

import torch

from rtd_plugin.training.batches import make_batch
from rtd_plugin.training.loop import make_accelerator, train
from rtd_plugin.training.objective import FrozenSide, objective_inputs, rtd_objective
from rtd_plugin.training.recipe import Objective, read_recipe
from rtd_plugin.training.run import load_run

HALF = 3

warnings.simplefilter("error")
torch.set_num_threads(1)
os.environ.update(ENVIRONMENT)  # noqa: F821
run = load_run(read_recipe(RECIPE, OVERRIDES), FOLDER)  # noqa: F821
accelerator = make_accelerator(run.recipe)
rank = accelerator.process_index
batch = make_batch([run.triplets[rank * HALF + place] for place in range(HALF)], run.adapter, 77)
found = {"processes": accelerator.num_processes}
for negatives in ("gathered", "local"):
    tower = copy.deepcopy(run.tower).requires_grad_(True)
    settings = Objective(noise_scale=0, negatives=negatives)
    loss = rtd_objective(
        objective_inputs(tower, FrozenSide(run.tower, run.projection), batch, 259, settings, torch.Generator())
    )
    loss.backward()
    gradients = [accelerator.reduce(parameter.grad, "mean") for parameter in tower.parameters()]
    found[negatives] = {"loss": accelerator.gather(loss.detach()), "gradients": gradients}
main = accelerator.is_main_process
found["weights"] = train(run, accelerator)[0].state_dict()
if main:
    torch.save(found, run.folder / "found.pt")

"""What each of two processes does for `test_processes`: losses and gradients of half a batch, then a whole run.

Globals: RECIPE, FOLDER, OVERRIDES, ENVIRONMENT.
"""

import copy
import os
import warnings

import numpy as np
import torch
from batch_loss import compute_batch_loss

from rtd_plugin.engine.build import build_engine
from rtd_plugin.training.loop import make_accelerator, train
from rtd_plugin.training.recipe import Objective, read_recipe
from rtd_plugin.training.run import load_run

HALF = 3

warnings.simplefilter("error")
torch.set_num_threads(1)
os.environ.update(ENVIRONMENT)  # noqa: F821
run = load_run(read_recipe(RECIPE, OVERRIDES), FOLDER)  # noqa: F821
accelerator = make_accelerator(run.recipe)
rank = accelerator.process_index
results = {"processes": accelerator.num_processes}
for negatives in ("gathered", "local"):
    tower = copy.deepcopy(run.tower).requires_grad_(True)
    rows = np.arange(rank * HALF, (rank + 1) * HALF)
    loss = compute_batch_loss(run, tower, rows, Objective(noise_scale=0, negatives=negatives))
    loss.backward()
    gradients = [accelerator.reduce(parameter.grad, "mean") for parameter in tower.parameters()]
    results[negatives] = {"loss": accelerator.gather(loss.detach()), "gradients": gradients}
main = accelerator.is_main_process
results["weights"] = train(run, accelerator, build_engine)[0].state_dict()
if main:
    torch.save(results, run.folder / "results.pt")

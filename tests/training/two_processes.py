"""Run by each of two processes of `test_processes`: losses and gradients of half a batch, then a whole run.

Globals: RECIPE, FOLDER, OVERRIDES, ENVIRONMENT.
"""

import copy
import os
import warnings
from unittest.mock import patch

import numpy as np
import torch
from batch_loss import compute_batch_loss
from torch import distributed

from rtd_plugin.engine.build import build_engine
from rtd_plugin.training.loop import make_accelerator, train
from rtd_plugin.training.recipe import Objective, read_recipe
from rtd_plugin.training.run import load_run
from rtd_plugin.training.trainer import Trainer

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
for precision in ("fp32", "bf16"):
    overrides = [*OVERRIDES, f"gradient_precision={precision}"]  # noqa: F821
    trainer = Trainer(run, make_accelerator(read_recipe(RECIPE, overrides)), build_engine)  # noqa: F821
    batch, passed = trainer._engine.batches[0], []
    trainer._engine.encoder.register_forward_pre_hook(lambda module, args, passed=passed: passed.append(args[0]))
    trainer._add_gradients(batch)
    assert trainer._model.gradient_as_bucket_view
    assert passed == [batch.composed], "data parallelism copies the texts"
    results[precision] = [parameter.grad.clone() for parameter in trainer.tower.parameters()]
reduce, reductions = distributed.all_reduce, []
with patch.object(distributed, "all_reduce", lambda *args, **options: reductions.append(1) or reduce(*args, **options)):
    results["weights"] = train(run, make_accelerator(run.recipe), build_engine)[0].state_dict()
results["reductions"] = len(reductions)  # those that DDP makes in C++ are not among them
if main:
    torch.save(results, run.folder / "results.pt")

"""A run that another process stops, for `test_interrupts`. Globals: RECIPE, FOLDER, OVERRIDES."""

import sys

import torch

from rtd_plugin.engine.build import build_engine
from rtd_plugin.training.loop import Interrupted, make_accelerator, train
from rtd_plugin.training.recipe import read_recipe
from rtd_plugin.training.run import load_run

torch.set_num_threads(1)
run = load_run(read_recipe(RECIPE, OVERRIDES), FOLDER)  # noqa: F821
try:
    train(run, make_accelerator(run.recipe), build_engine)
except Interrupted:
    sys.exit(3)

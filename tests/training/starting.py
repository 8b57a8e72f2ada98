"""Starts a run, and records in a file what it reads and writes, for `test_run`.

Globals: RECIPE, FOLDER, NOTES, CACHE.
"""

import os

import numpy as np

from rtd_plugin.training.recipe import read_recipe
from rtd_plugin.training.run import load_run
from rtd_plugin.triplets import source_cache as known
from rtd_plugin.triplets import token_store
from rtd_plugin.triplets.sources import JsonTriplets


def note_calls(name, function):
    def note(*args, **kwargs):
        with NOTES.open("a") as file:  # noqa: F821
            file.write(f"{name}\n")
        return function(*args, **kwargs)

    return note


os.environ["RTD_PLUGIN_CACHE"] = str(CACHE)  # noqa: F821
known.TICK = -(10**12)  # the file was written a moment ago
JsonTriplets.load = note_calls("read", JsonTriplets.load)
token_store._write = note_calls("made", token_store._write)
run = load_run(read_recipe(RECIPE), FOLDER)  # noqa: F821
NOTES.with_name(f"{NOTES.name}-{FOLDER.name}").write_text(  # noqa: F821
    repr([run.triplets.key, run.triplet_digests, run.skipped, run.triplets.gather(np.arange(len(run.triplets)))])
)

"""A run that starts, and notes in a file what it reads and makes, for `test_run`.

Globals: RECIPE, FOLDER, NOTES, CACHE.
"""

import os

from rtd_plugin.training.recipe import read_recipe
from rtd_plugin.training.run import load_run
from rtd_plugin.triplets import source_cache as known
from rtd_plugin.triplets import token_store
from rtd_plugin.triplets.json_source import JsonTriplets


def noted(what, function):
    def noting(*arguments):
        with NOTES.open("a") as file:  # noqa: F821
            file.write(f"{what}\n")
        return function(*arguments)

    return noting


os.environ["RTD_PLUGIN_CACHE"] = str(CACHE)  # noqa: F821
known.TICK = -(10**12)  # the file was written a moment ago
JsonTriplets.load = noted("read", JsonTriplets.load)
token_store._write = noted("made", token_store._write)
run = load_run(read_recipe(RECIPE), FOLDER)  # noqa: F821
NOTES.with_name(f"{NOTES.name}-{FOLDER.name}").write_text(  # noqa: F821
    repr([run.triplets.key, run.triplet_digests, run.skipped, list(run.triplets)])
)

"""Fills a cache in a separate process, for `test_cache`.

Globals: FOLDER, and BEFORE, what to do before each list of indices: "die at 10" or "wait".
"""

import os
import signal
import time

import torch

from rtd_plugin.evaluation import feature_cache

feature_cache.SHARD, feature_cache.POLL = 5, 0.01
folder, before = FOLDER, BEFORE  # noqa: F821


def compute(indices):
    if before == "die at 10" and 10 in indices:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.1)
    with (folder / "log").open("a") as log:
        log.write(" ".join(map(str, indices)) + "\n")
    return {index: torch.tensor([index, index**2, 0.1]) for index in indices}


keys = [feature_cache.hash_text(str(index)) for index in range(23)]
vectors = feature_cache.FeatureCache(folder / "cache").fetch(keys, compute)[:]
assert vectors[:, 0].tolist() == list(range(23))

"""Fills a cache in a process of its own, for `test_cache`.

Globals: FOLDER, and BEFORE, what to do before each list of numbers: "die at 10" or "wait".
"""

import os
import signal
import time

import torch

from rtd_plugin.evaluation import feature_cache

feature_cache.SHARD, feature_cache.POLL = 5, 0.01
folder, before = FOLDER, BEFORE  # noqa: F821


def compute(numbers):
    if before == "die at 10" and 10 in numbers:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.1)
    with (folder / "log").open("a") as log:
        log.write(" ".join(map(str, numbers)) + "\n")
    return {number: torch.tensor([number, number**2, 0.1]) for number in numbers}


keys = [feature_cache.hash_text(str(number)) for number in range(23)]
found = feature_cache.FeatureCache(folder / "cache").vectors(keys, compute)
assert found[:, 0].tolist() == list(range(23))

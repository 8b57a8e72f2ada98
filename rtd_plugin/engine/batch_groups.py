"""A run's batches, a window of them at a time, with what the frozen encoder gives for their captions.

The more texts an encoder takes together, the more of them begin alike, and what they begin with is computed once. So
the captions of a window's batches are sorted and computed together: of Flickr8k's, in batches of 32 triplets, 6 % fewer
tokens are left in windows of 8 batches, and 12 % in windows of 64. Windows grow: the first one is the first batch, so
that a run begins at once, and each other one is as long as what came before it, up to a bound.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from rtd_plugin.cache import cache_folder
from rtd_plugin.engine.caption_features import DTYPES, KeptFeatures
from rtd_plugin.training.batches import Batch, BatchOrder, make_batch
from rtd_plugin.training.objective import FrozenSide, stack
from rtd_plugin.training.run import Run

CAPTIONS = 2**12  # in a window, at most
WORK = 2**35  # captions × weights of the encoder's blocks, at most: nobody is heard for a few seconds on two cores


class Windows:
    """The batches of a run.

    Args:
        run: whose triplets they are made of.
        order: which of them make which batch.
        frozen: computes the features of captions.
        kept: those of captions that were computed before.

    Attributes:
        longest: batches in a window, at most.
    """

    def __init__(self, run: Run, order: BatchOrder, frozen: FrozenSide, kept: KeptFeatures):
        self.longest = longest_window(run)
        self._run, self._order, self._frozen, self._kept = run, order, frozen, kept
        self._batches: dict[int, Batch] = {}  # of one window

    def batch(self, number: int) -> Batch:
        """A batch by its number, counted from 0, with its captions' features."""
        if number not in self._batches:
            numbers = window(number, self.longest)
            batches = [self._made(number) for number in numbers]
            features = self._features(batches).chunk(len(batches))
            self._batches = {
                number: replace(batch, features=part)
                for number, batch, part in zip(numbers, batches, features, strict=True)
            }
        return self._batches[number]

    def _made(self, number: int) -> Batch:
        run = self._run
        triplets = [run.triplets[index] for index in self._order.indices(number)]
        projected = run.recipe.objective.concatenation == "projected"
        return make_batch(triplets, run.adapter, run.tower.context_length, projected)

    def _features(self, batches: Sequence[Batch]) -> Tensor:
        """The features of all captions, (n, D), on the CPU."""
        captions = stack(*(tokens for batch in batches for tokens in (batch.targets, batch.references)))  # (n, L)
        numbers = torch.cat([batch.numbers.T.flip(0).flatten() for batch in batches])  # (n,)
        distinct, first, places = np.unique(numbers.numpy(), return_index=True, return_inverse=True)
        captions = captions[first]
        features = self._kept.features(torch.from_numpy(distinct), lambda chosen: self._computed(captions[chosen]))
        return features[places]

    def _computed(self, captions: Tensor) -> Tensor:
        order = torch.from_numpy(np.lexsort(captions.numpy().T[::-1]))
        together = 2 * self._order.batch_size  # no more than a batch has, for the sake of memory
        parts = [self._frozen.features(part) for part in captions[order].split(together)]
        features = torch.cat(parts)
        return torch.empty_like(features).index_copy_(0, order.to(features.device), features)


def longest_window(run: Run) -> int:
    """How many batches a run's windows have, at most: a power of 2."""
    weights = sum(parameter.numel() for parameter in run.tower.transformer.parameters())
    return _power_of_2(min(CAPTIONS, WORK // weights) // (2 * run.recipe.batch_size))


def window(number: int, longest: int) -> range:
    """The window that a batch is in, of at most `longest` batches, a power of 2."""
    length = min(longest, _power_of_2(number))
    first = number - number % length
    return range(first, first + length)


def _power_of_2(number: int) -> int:
    """The largest one up to a number, or 1."""
    return 2 ** (max(1, number).bit_length() - 1)


def kept_features(run: Run, accelerator: Accelerator) -> KeptFeatures:
    """The file of what ψ₀ gives for a run's captions, its name made of all that their last bits depend on."""
    recipe, dtype = run.recipe, DTYPES[run.recipe.precision]
    windows = [recipe.seed, recipe.shuffle, recipe.batch_size, accelerator.num_processes, longest_window(run)]
    computed_by = [torch.__version__, accelerator.device.type, torch.get_num_threads(), str(dtype), run.base_digest]
    name = hashlib.sha256(json.dumps([run.triplets.key, *windows, *computed_by]).encode()).hexdigest()[:32]
    path = cache_folder() / "frozen" / f"{name}.features"
    return KeptFeatures(path, run.triplets.texts, run.tower.features, dtype)

"""Batches copied to a GPU in a stream beside the steps': behind the step before, and not in front of their own."""

import torch

from rtd_plugin.training.batches import Batch, list_device_tensors, map_device_tensors
from rtd_plugin.training.plain import Batches


class DeviceBatches:
    """Batches whose tensors a step needs are on the device.

    The host runs ahead of a GPU: it asks for a batch while the step before still computes, and the copy is over when
    that step is. The stream of the steps waits for the copy. Each copy gets new memory from torch's allocator, which
    gives it away again only when this stream has done what it had to do as the batch was dropped.

    Args:
        batches: with tensors on the CPU; a copy from memory that is not pinned waits for the device.
        device: a GPU, or the CPU, where nothing is copied.
    """

    def __init__(self, batches: Batches, device: torch.device):
        self._batches, self._device = batches, device
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __getitem__(self, index: int) -> Batch:
        batch = self._batches[index]
        with torch.cuda.stream(self._copies):  # no other for None
            batch = map_device_tensors(lambda tensor: tensor.to(self._device, non_blocking=True), batch)
        if self._copies is not None:
            steps = torch.cuda.current_stream(self._device)
            steps.wait_stream(self._copies)
            for tensor in list_device_tensors(batch):
                tensor.record_stream(steps)
        return batch

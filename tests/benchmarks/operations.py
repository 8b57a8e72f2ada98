"""Counting ATen operations without views, and the kernels that a GPU runs for them.

An operation is one kernel, but for those below, read from the sources of PyTorch 2.14 for CUDA 13 (in
`aten/src/ATen/native/`):

* the backward pass of a layer norm has a kernel for its input and one for its weights (`cuda/layer_norm_kernel.cu`);
* that of an embedding sorts more than 3,072 indices and adds up runs of them (`cuda/Embedding.cu`,
  `cuda/EmbeddingBackwardKernel.cu`): zeros, indices, sort, unique (2), partial counts, their sums (2), number, offsets,
  gradients, and their sum; with fewer it has two;
* `masked_fill` copies first, `eye` and the backward pass of the likelihood fill with zeros first;
* fused AdamW and `_foreach_` take up to 2,240 blocks of 65,536 elements in a kernel (`cuda/MultiTensorApply.cuh`); for
  CUDA 12 it was 320 blocks;
* memory-efficient attention is one forward and one backward: in fp16 and bf16 the backward kernel computes its row sums
  itself, and it splits no keys, for which a workspace would be filled, if groups times heads are 256 or more
  (`transformers/cuda/attention_backward.cu`).

Copies between memories and fills with zeros by `cudaMemset` are no kernels. A matrix product is counted once; cuBLAS
may split one in two.
"""

from collections import Counter
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

VIEWS = {
    "view",
    "_unsafe_view",
    "t",
    "transpose",
    "permute",
    "unbind",
    "expand",
    "slice",
    "select",
    "unsqueeze",
    "split",
}
VIEWS |= {"squeeze", "detach", "alias", "as_strided", "unfold", "device", "empty", "empty_like", "new_empty"}
VIEWS |= {"empty_strided", "new_empty_strided", "_reshape_alias", "lift_fresh"}
VIEWS |= {"_record_function_enter_new", "_record_function_exit"}


KERNELS = {"native_layer_norm_backward": 2, "masked_fill": 2, "eye": 2, "nll_loss_backward": 2}
SORTED_ABOVE = 3072  # indices of an embedding
CHUNK, BLOCKS = 65536, 2240  # of a kernel over many tensors


def count_kernels(name: str, args: Any) -> int:
    """Return how many kernels a GPU runs for an operation."""
    if name == "embedding_dense_backward":
        return 12 if args[1].numel() > SORTED_ABOVE else 2
    if name.startswith(("_foreach_", "_fused_")):
        return -(-sum(-(-tensor.numel() // CHUNK) for tensor in args[0]) // BLOCKS)
    return KERNELS.get(name, 1)


class Operations(TorchDispatchMode):
    """Counts ATen operations and their kernels by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.kernels: Counter[str] = Counter()
        self.paused = False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name not in VIEWS and not self.paused:
            self.counts[name] += 1
            self.kernels[name] += count_kernels(name, args)
        if name == "_fused_adamw_":  # changes tensors in place, and has no fake with a tensor for its rate
            return None
        return function(*args, **(kwargs or {}))

